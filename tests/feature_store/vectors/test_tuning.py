import numpy as np
import pytest

from feature_store.vectors import IndexSpec, VectorIndex, exact_top, recall, tune


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((50, 16))
    vectors = centres[rng.integers(50, size=4_000)] + 0.7 * rng.standard_normal((4_000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = vectors[rng.integers(4_000, size=(200, 3))].mean(1)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return vectors, queries, 0.05 * rng.standard_normal(4_000).astype(np.float32)


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivfpq", "hnsw"])
def test_the_target_is_reached_for_the_list_that_is_served(world, kind):
    vectors, queries, offset = world
    tuned = tune(vectors, queries, target_recall=0.95, k=20, offset=offset, kinds=[kind])
    assert tuned.reached
    assert tuned.best.kind == tuned.index.kind == kind
    # Repeated from the outside: fetch, and take the best k.
    _, rows = tuned.index.search(queries, tuned.best.fetched, offset=offset)
    best = rows[:, :20]
    exact = np.argsort(-(queries @ vectors.T + offset), axis=1)[:, :20]
    assert recall(exact, best) >= 0.95


def test_the_least_effort_is_taken(world):
    vectors, queries, offset = world
    easy, hard = (
        tune(vectors, queries, target_recall=target, k=20, offset=offset, kinds=["ivf"]).best
        for target in (0.7, 0.99)
    )
    assert easy.breadth < hard.breadth
    assert easy.fetched <= hard.fetched


def test_an_offset_asks_for_more_rows_than_are_served(world):
    vectors, queries, offset = world
    plain = tune(vectors, queries, target_recall=0.95, k=20, kinds=["flat"]).best
    assert plain.fetched == 20
    assert plain.recall == 1.0
    moved = tune(vectors, queries, target_recall=0.95, k=20, offset=offset, kinds=["flat"]).best
    assert moved.fetched > 20


def test_lists_that_are_scanned_by_the_sum_need_no_more_than_are_served(world):
    vectors, queries, offset = world
    tuned = tune(vectors, queries, target_recall=0.95, k=20, offset=offset, kinds=["ivf"])
    assert tuned.best.fetched == 20
    assert tuned.best.recall >= 0.95
    # What finds nearest vectors, as the same lists on another device do, is told to fetch more.
    assert tuned.nearest > 20
    flat = VectorIndex.build(vectors, IndexSpec(kind="flat"), device="cpu")
    assert not flat.best_by_sum
    _, rows = flat.search(queries, tuned.nearest, offset=offset)
    assert recall(exact_top(vectors, queries, 20, offset=offset), rows[:, :20]) >= 0.95


def test_exact_top_is_the_sorted_scan(world):
    vectors, queries, offset = world
    found = exact_top(vectors, queries[:5], 7, offset=offset)
    exact = np.argsort(-(queries[:5] @ vectors.T + offset), axis=1)[:, :7]
    np.testing.assert_array_equal(found, exact)


def test_a_sample_of_one_is_refused(world):
    vectors, queries, _ = world
    with pytest.raises(ValueError, match="at least 2 queries"):
        tune(vectors, queries[:1], target_recall=0.9)
