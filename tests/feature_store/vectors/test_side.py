import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.vectors import IndexSpec, RowFilter, SideIndex, VectorIndex


def unit_vectors(n: int, d: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 40),
    m=st.integers(0, 10),
    k=st.integers(1, 60),
    gone=st.floats(0, 1),
    filtered=st.booleans(),
    hides=st.booleans(),
    kind=st.sampled_from(["flat", "ivf"]),
    moved=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_added_and_withdrawn_rows_answer_as_a_rebuilt_index_would(
    n, m, k, gone, filtered, hides, kind, moved, seed
):
    rng = np.random.default_rng(seed)
    everything, queries = unit_vectors(n + m, 8, seed), unit_vectors(3, 8, seed + 1)
    withdrawn = np.flatnonzero(rng.random(n + m) < gone)
    allowed = rng.random(n + m) < 0.5 if filtered else np.ones(n + m, bool)
    hidden = [rng.integers(n + m, size=4 if hides else 0) for _ in queries]
    offset = rng.standard_normal(n + m).astype(np.float32) if moved else None
    # One list: nothing is approximate. All of the base are fetched: no kind loses one by the sum.
    base = VectorIndex.build(everything[:n], IndexSpec(kind=kind, n_lists=1), device="cpu")
    k = n + m if moved and kind == "flat" else k
    live = SideIndex(base, added=everything[n:], withdrawn=withdrawn)

    scores, rows = live.search(
        queries, k, offset=offset, allowed=RowFilter(allowed) if filtered else None, hidden=hidden
    )

    for query, unwanted in enumerate(hidden):
        open_to_it = allowed.copy()
        open_to_it[withdrawn] = False
        open_to_it[unwanted] = False
        expected = min(k, int(open_to_it.sum()))
        found = rows[query][rows[query] >= 0]
        assert len(found) == expected
        assert open_to_it[found].all()
        sums = everything @ queries[query] + (0 if offset is None else offset)
        exact = np.sort(sums[open_to_it])[::-1][:expected]
        np.testing.assert_allclose(scores[query, :expected], exact, atol=1e-5)


def test_the_same_filter_object_is_answered_alike_twice():
    vectors = unit_vectors(20, 4, 0)
    base = VectorIndex.build(vectors[:15], IndexSpec(), device="cpu")
    live = SideIndex(base, added=vectors[15:], withdrawn=np.array([0, 16]))
    allowed = RowFilter(np.arange(20) % 2 == 0)
    first, second = (live.search(vectors[:2], 20, allowed=allowed)[1] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert set(first[0].tolist()) == {-1, 2, 4, 6, 8, 10, 12, 14, 18}


def test_rows_that_do_not_exist_are_named():
    base = VectorIndex.build(unit_vectors(5, 4, 0), IndexSpec(), device="cpu")
    with pytest.raises(ValueError, match=r"0…5, got \[9\]"):
        SideIndex(base, added=unit_vectors(1, 4, 1), withdrawn=np.array([9]))
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        SideIndex(base, added=unit_vectors(1, 3, 1))
