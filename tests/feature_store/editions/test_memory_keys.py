import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.editions.memory_keys import D_PART, MemoryKeys


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def reference(vectors, users, lists, rows):
    """[n(Pu ⊙ Pz), n(Pz)] / √2, with the projection that the keys were made with."""
    projection = MemoryKeys(vectors)._projection
    items = vectors @ projection
    pairs = unit((users @ projection)[lists] * items[rows])
    return np.concatenate([pairs, unit(items)[rows]], axis=1) / np.sqrt(2)


@settings(max_examples=40, deadline=None)  # the first call compiles
@given(
    n_items=st.integers(1, 30),
    d=st.integers(1, 40),
    n_users=st.integers(1, 5),
    n=st.integers(0, 60),
    seed=st.integers(0, 2**16),
)
def test_keys_are_those_of_the_equation(n_items, d, n_users, n, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n_items, d)).astype(np.float32)
    vectors[rng.integers(n_items)] = 0  # an item of which nothing is known
    users = rng.standard_normal((n_users, d)).astype(np.float32)
    lists, rows = rng.integers(n_users, size=n), rng.integers(n_items, size=n)
    keys = MemoryKeys(vectors)

    found = keys.of_lists(users, lists, rows)
    assert found.shape == (n, 2 * D_PART)
    np.testing.assert_allclose(found, reference(vectors, users, lists, rows), atol=1e-5)
    np.testing.assert_allclose(keys(users[lists], rows), found, atol=1e-6)


def test_one_user_goes_with_all_rows():
    rng = np.random.default_rng(0)
    keys = MemoryKeys(rng.standard_normal((9, 5)).astype(np.float32))
    user, rows = rng.standard_normal(5).astype(np.float32), np.array([4, 0, 4])
    one = keys(user, rows)
    np.testing.assert_allclose(one, keys(np.stack([user] * 3), rows), rtol=1e-5)
    assert keys.rows(one).tolist() == rows.tolist()
    assert (one**2).sum(1) == pytest.approx(1.0)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 40), behind=st.integers(0, 5))
@settings(deadline=None)
def test_items_that_follow_have_the_keys_that_they_would_have_together(seed, n, behind):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n + behind, 6)).astype(np.float32)
    users, rows = rng.standard_normal((n + behind, 6)).astype(np.float32), np.arange(n + behind)
    apart = MemoryKeys(vectors[:n]).followed_by(vectors[n:])
    np.testing.assert_allclose(apart(users, rows), MemoryKeys(vectors)(users, rows), atol=1e-6)


def test_every_item_has_a_key_however_many_there_are():
    vectors = np.random.default_rng(0).standard_normal((10_000, 6)).astype(np.float32)
    pauses = []
    keys = MemoryKeys(vectors, pause=lambda: pauses.append(None))
    rows = np.array([0, 4_095, 4_096, 9_999])
    few = MemoryKeys(vectors[rows])
    np.testing.assert_allclose(keys(vectors[:4], rows), few(vectors[:4], np.arange(4)), atol=1e-6)
    assert len(pauses) == 3
