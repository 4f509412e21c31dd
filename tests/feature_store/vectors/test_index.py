from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.vectors import IndexSpec, RowFilter, VectorIndex


def unit_vectors(n: int, d: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def search_reference(vectors, queries, k, allowed, offset=0.0):
    scores = queries @ vectors.T + offset
    scores[:, ~allowed] = -np.inf
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    k=st.integers(1, 80),
    share=st.floats(0, 1),
    kind=st.sampled_from(["flat", "hnsw", "ivf", "ivfpq"]),
    seed=st.integers(0, 2**16),
)
def test_filtered_search_returns_the_best_allowed_rows_and_k_of_them(n, k, share, kind, seed):
    vectors, queries = unit_vectors(n, 8, seed), unit_vectors(3, 8, seed + 1)
    allowed = np.random.default_rng(seed).random(n) < share
    index = VectorIndex.build(vectors, IndexSpec(kind=kind), device="cpu")

    scores, rows = index.search(queries, k, allowed=allowed)

    expected = min(k, int(allowed.sum()))
    assert ((rows >= 0).sum(axis=1) == expected).all()
    assert allowed[rows[rows >= 0]].all()
    assert (rows[:, expected:] == -1).all()
    wanted = search_reference(vectors, queries, expected, allowed)
    np.testing.assert_allclose(scores[:, :expected], wanted, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 3_000),
    k=st.integers(1, 70),
    share=st.one_of(st.none(), st.floats(0.5, 1)),
    lists=st.integers(1, 9),
    breadth=st.integers(1, 9),
    spare=st.sampled_from([1, 64]),
    seed=st.integers(0, 2**16),
)
def test_lists_are_scanned_by_the_sum_with_the_offset(n, k, share, lists, breadth, spare, seed):
    rng = np.random.default_rng(seed)
    # Equal vectors and offsets: ties are settled by the row.
    vectors = unit_vectors(20, 8, seed)[rng.integers(20, size=n)]
    queries, offset = unit_vectors(3, 8, seed + 1), rng.integers(-3, 3, n).astype(np.float32) / 3
    allowed = np.ones(n, bool) if share is None else rng.random(n) < share
    hidden = [rng.integers(n, size=rng.integers(30)) for _ in queries]
    none = np.array([-1, n, n + 70])  # rows that there are not
    spec = IndexSpec(kind="ivf", n_lists=lists, n_probe=breadth)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feature_store.vectors.index.EXACT_NUMBERS", 0)
        patch.setattr("feature_store.vectors.listed.SPARE", spare)
        index = VectorIndex.build(vectors, spec, device="cpu")
        given = None if share is None else RowFilter(allowed)
        scores, rows = index.search(
            *(queries, k),
            offset=offset,
            allowed=given,
            hidden=[np.append(each, none) for each in hidden],
        )

    for query, unwanted in enumerate(hidden):
        here = rows[query][rows[query] >= 0]
        open_to_it = allowed.copy()
        open_to_it[unwanted] = False
        assert len(here) == min(k, int(open_to_it.sum()))
        assert len(set(here.tolist())) == len(here)
        assert open_to_it[here].all()
        sums = (vectors @ queries[query] + offset)[here]
        np.testing.assert_allclose(scores[query, : len(here)], sums, atol=1e-6)
        assert (np.diff(scores[query, : len(here)]) <= 0).all()
        if breadth >= index.max_breadth:
            open_row = open_to_it[None, :]
            wanted = search_reference(
                vectors, queries[query : query + 1], len(here), open_row[0], offset
            )
            np.testing.assert_allclose(scores[query, : len(here)], wanted[0], atol=1e-6)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "ivfpq"])
def test_an_offset_orders_what_was_found(kind: str):
    vectors, queries = unit_vectors(400, 16, 0), unit_vectors(5, 16, 1)
    offset = np.random.default_rng(2).standard_normal(400).astype(np.float32)
    index = VectorIndex.build(vectors, IndexSpec(kind=kind, n_probe=64), device="cpu")
    scores, rows = index.search(queries, 400, offset=offset)
    exact = queries @ vectors.T + offset
    np.testing.assert_allclose(scores, -np.sort(-exact, axis=1), atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(exact, rows, axis=1), scores, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    k=st.integers(1, 70),
    share=st.one_of(st.none(), st.floats(0, 1)),
    kind=st.sampled_from(["flat", "ivf"]),
    longest=st.sampled_from([0, 3, 40]),
    overfetch=st.sampled_from([1_000, 5]),
    seed=st.integers(0, 2**16),
)
def test_what_a_query_hides_is_replaced_by_the_next_best(
    n, k, share, kind, longest, overfetch, seed
):
    rng = np.random.default_rng(seed)
    vectors, queries = unit_vectors(n, 8, seed), unit_vectors(3, 8, seed + 1)
    allowed = None if share is None else rng.random(n) < share
    # Also rows that there are not.
    unwanted = [rng.integers(-2, n + 2, size=rng.integers(longest + 1)) for _ in queries]
    spec = IndexSpec(kind=kind, n_lists=1)  # one list: nothing is approximate
    index = VectorIndex.build(vectors, spec, device="cpu")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("feature_store.vectors.index.MAX_OVERFETCH", overfetch)
        scores, rows = index.search(queries, k, allowed=allowed, hidden=unwanted)

    for query in range(len(queries)):
        hidden = unwanted[query][(unwanted[query] >= 0) & (unwanted[query] < n)]
        open_to_it = np.ones(n, bool) if allowed is None else allowed.copy()
        open_to_it[hidden] = False
        expected = min(k, int(open_to_it.sum()))
        found = rows[query][rows[query] >= 0]
        assert len(found) == expected
        assert open_to_it[found].all()
        wanted = search_reference(vectors, queries[query : query + 1], expected, open_to_it)[0]
        np.testing.assert_allclose(scores[query, :expected], wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "ivfpq"])
def test_a_saved_index_answers_as_before(tmp_path: Path, kind: str):
    vectors, queries = unit_vectors(500, 16, 0), unit_vectors(5, 16, 1)
    index = VectorIndex.build(vectors, IndexSpec(kind=kind), device="cpu")
    index.set_effort(17, 3)
    index.save(tmp_path / "index.faiss")
    loaded = VectorIndex.load(tmp_path / "index.faiss", matrix=vectors, device="cpu")
    assert loaded.effort == index.effort
    assert (len(loaded), loaded.dimension, loaded.kind) == (500, 16, kind)
    for before, after in zip(index.search(queries, 10), loaded.search(queries, 10), strict=True):
        np.testing.assert_array_equal(before, after)


def test_hnsw_finds_nearly_all_of_the_exact_top_on_normalised_vectors():
    vectors, queries = unit_vectors(5_000, 32, 0), unit_vectors(50, 32, 1)
    _, exact = VectorIndex.build(vectors, IndexSpec(kind="flat"), device="cpu").search(queries, 50)
    _, found = VectorIndex.build(vectors, IndexSpec(kind="hnsw"), device="cpu").search(queries, 50)
    recall = np.mean([len(set(a) & set(b)) / 50 for a, b in zip(exact, found, strict=True)])
    assert recall > 0.95


def test_the_kind_grows_with_the_catalogue():
    kinds = [IndexSpec().resolve(n).kind for n in (1_000, 100_000, 1_000_000)]
    assert kinds == ["flat", "hnsw", "ivfpq"]


def test_a_matrix_of_another_index_is_refused(tmp_path: Path):
    VectorIndex.build(unit_vectors(10, 4, 0), IndexSpec(), device="cpu").save(tmp_path / "i")
    with pytest.raises(ValueError, match="10 vectors of 4"):
        VectorIndex.load(tmp_path / "i", matrix=unit_vectors(9, 4, 0), device="cpu")


def test_wrong_shapes_are_named():
    index = VectorIndex.build(unit_vectors(10, 4, 0), IndexSpec(), device="cpu")
    with pytest.raises(ValueError, match=r"\(2, 5\).*\(B, 4\)"):
        index.search(unit_vectors(2, 5, 0), 3)
    with pytest.raises(ValueError, match="mask"):
        index.search(unit_vectors(2, 4, 0), 3, allowed=np.ones(9, bool))
    with pytest.raises(ValueError, match="offset"):
        index.search(unit_vectors(2, 4, 0), 3, offset=np.ones(9, np.float32))


def test_a_file_that_is_no_index_is_refused(tmp_path: Path):
    (tmp_path / "bad.faiss").write_bytes(b"not an index")
    with pytest.raises(ValueError, match="not a readable FAISS index"):
        VectorIndex.load(tmp_path / "bad.faiss", device="cpu")


def test_a_graph_walk_that_falls_short_is_completed():
    rng = np.random.default_rng(0)
    label = np.sort(rng.integers(20, size=4_000))
    vectors = 3 * rng.standard_normal((20, 16))[label] + rng.standard_normal((4_000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    spec = IndexSpec(kind="hnsw", hnsw_neighbours=4, hnsw_ef_construction=8, hnsw_ef_search=8)
    index = VectorIndex.build(vectors, spec, device="cpu")
    allowed = label >= 14
    queries = vectors[rng.choice(np.flatnonzero(~allowed), 20)]
    for mask in (allowed, None):
        scores, rows = index.search(queries, 1_000, allowed=mask)
        assert (rows >= 0).all()
        assert all(len(set(each)) == 1_000 for each in rows.tolist())
        assert (np.diff(scores, axis=1) <= 1e-5).all()
