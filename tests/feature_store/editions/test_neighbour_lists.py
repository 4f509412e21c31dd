from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.editions.neighbour_lists import NeighbourLists, unite_reference

N_ITEMS, D = 40, 6


def random_lists(rng: np.random.Generator, *, density: float = 0.1) -> NeighbourLists:
    matrix = sp.random(N_ITEMS, N_ITEMS, density, format="csr", rng=rng, dtype=np.float32)
    lists = NeighbourLists.of(matrix, weight=3.0)
    assert lists is not None
    return lists


def random_histories(rng: np.random.Generator, lengths: list[int]) -> sp.csr_matrix:
    rows = [np.sort(rng.choice(N_ITEMS, length, replace=False)) for length in lengths]
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    columns = np.concatenate([*rows, np.zeros(0, np.int64)]).astype(np.int32)
    weights = rng.random(len(columns)).astype(np.float32)
    return sp.csr_matrix((weights, columns, indptr), shape=(len(lengths), N_ITEMS))


def dense(lists: NeighbourLists) -> np.ndarray:
    shape = (len(lists), len(lists))
    return sp.csr_matrix((lists.weights, lists.items, lists.indptr), shape=shape).toarray()


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    n=st.integers(0, 10),
    reach=st.integers(0, 30),
    share=st.floats(0, 1),
)
def test_the_compiled_pass_unites_as_the_reference_does(seed, lengths, n, reach, share):
    rng = np.random.default_rng(seed)
    lists, histories = random_lists(rng), random_histories(rng, lengths)
    users = rng.standard_normal((len(lengths), D)).astype(np.float32)
    vectors = rng.standard_normal((N_ITEMS, D)).astype(np.float32)
    bias = rng.standard_normal(N_ITEMS).astype(np.float32)
    own = users @ vectors.T / 0.5 + bias
    found = np.array([rng.choice(N_ITEMS, n, replace=False) for _ in lengths], np.int64)
    found = found.reshape(len(lengths), n)
    found[:, n // 2 :] = np.where(
        rng.random((len(lengths), n - n // 2)) < 0.3, -1, found[:, n // 2 :]
    )
    scores = np.where(found >= 0, np.take_along_axis(own, np.maximum(found, 0), 1), -np.inf)
    allowed, available = rng.random(N_ITEMS) < share, rng.random(N_ITEMS) < 0.8
    hidden = [rng.choice(N_ITEMS, 5, replace=False).astype(np.int64) for _ in lengths]
    united, rows = lists.unite(
        scores.astype(np.float32),
        found,
        histories,
        users=users,
        item_vectors=vectors,
        bias=bias,
        temperature=0.5,
        reach=reach,
        allowed=[allowed, available],
        hidden=hidden,
    )
    assert united.shape == rows.shape == (len(lengths), n + reach)
    for at in range(len(lengths)):
        wanted = unite_reference(
            lists,
            scores[at],
            found[at],
            histories[at],
            own[at],
            reach=reach,
            allowed=allowed & available,
            hidden=hidden[at],
        )
        told = {int(i): float(s) for i, s in zip(rows[at], united[at], strict=True) if i >= 0}
        assert np.isneginf(united[at, rows[at] < 0]).all()
        assert told.keys() == wanted.keys()
        for item, score in wanted.items():
            assert told[item] == pytest.approx(score, abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4))
def test_all_scores_pairs_and_parts_are_those_of_a_dense_product(seed, lengths):
    rng = np.random.default_rng(seed)
    lists, histories = random_lists(rng), random_histories(rng, lengths)
    wanted = histories.toarray() @ dense(lists)
    scored = np.ones((len(lengths), N_ITEMS), np.float32)
    lists.add_to(scored, histories)
    np.testing.assert_allclose(scored - 1, wanted, atol=1e-5)
    who, rows = rng.integers(0, len(lengths), 50), rng.integers(0, N_ITEMS, 50)
    pairs = lists.of_pairs(histories, who, rows)
    np.testing.assert_allclose(pairs, wanted[who, rows], atol=1e-5)
    parts = lists.parts(histories[0], rows)
    assert parts.shape == (50, histories[0].nnz)
    np.testing.assert_allclose(parts.sum(1), wanted[0, rows], atol=1e-5)


def test_an_item_added_later_is_in_no_list():
    lists = random_lists(np.random.default_rng(0))
    history = random_histories(np.random.default_rng(1), [5])
    assert not lists.parts(history, np.array([N_ITEMS, N_ITEMS + 7])).any()


def test_lists_are_read_as_they_were_written(tmp_path):
    lists = random_lists(np.random.default_rng(2))
    lists.save(tmp_path / "lists")
    read = NeighbourLists.load(tmp_path / "lists", n_items=N_ITEMS)
    assert read is not None
    np.testing.assert_array_equal(dense(read), dense(lists))
    assert NeighbourLists.load(tmp_path / "none", n_items=N_ITEMS) is None


@pytest.mark.parametrize(
    "broken",
    [
        lambda lists: replace(lists, items=lists.items + np.int32(N_ITEMS)),
        lambda lists: replace(lists, items=lists.items[:-1]),
        lambda lists: replace(lists, indptr=lists.indptr[::-1].copy()),
        lambda lists: replace(lists, items=lists.items.astype(np.int64)),
        lambda lists: replace(lists, indptr=lists.indptr[:-1]),
    ],
)
def test_lists_that_point_elsewhere_are_refused(tmp_path, broken):
    broken(random_lists(np.random.default_rng(3))).save(tmp_path / "lists")
    with pytest.raises(ValueError, match="lists"):
        NeighbourLists.load(tmp_path / "lists", n_items=N_ITEMS)


def test_lists_move_with_their_items():
    lists = random_lists(np.random.default_rng(4))
    places = np.arange(N_ITEMS)[::-1].copy() + 1
    places[3] = -1
    before, after = dense(lists), dense(lists.renumbered(places, n_items=N_ITEMS + 1))
    for j in range(N_ITEMS):
        for i in range(N_ITEMS):
            if j != 3 and i != 3:
                assert after[places[j], places[i]] == before[j, i]
    assert after.sum() == pytest.approx(np.delete(np.delete(before, 3, 0), 3, 1).sum(), rel=1e-5)


def test_lists_that_count_nothing_are_none():
    assert NeighbourLists.of(sp.csr_matrix((4, 4), dtype=np.float32)) is None
    assert NeighbourLists.of(sp.eye(4, format="csr"), weight=0) is None
    assert random_lists(np.random.default_rng(5)).weighed(0) is None
