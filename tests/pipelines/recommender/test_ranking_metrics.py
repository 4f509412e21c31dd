import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from pipelines.recommender.ranking_metrics import (
    NO_ITEM,
    coverage,
    exposure,
    gini,
    gini_reference,
    hit_rate,
    ndcg,
    novelty,
    ranked_lists,
    ranked_lists_reference,
    recall,
    reciprocal_rank,
)

# Few distinct values, so that most lists hold ties; both zeros and both infinities among them.
SCORES = st.sampled_from([-np.inf, -3.5, -1e-40, -0.0, 0.0, 1e-40, 2.0, 2.0000002, np.inf])


def one_case(scores, *, targets=(), excluded=(), length):
    n_items = len(scores)
    lists = ranked_lists(
        np.array([scores], dtype=np.float32),
        targets=csr_matrix([[i in targets for i in range(n_items)]]),
        excluded=csr_matrix([[i in excluded for i in range(n_items)]]),
        length=length,
    )
    return lists.items[0].tolist(), lists.hits[0].tolist()


@given(data=st.data())
def test_lists_equal_the_reference(data):
    n_cases, n_items = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    size = n_cases * n_items
    shape = (n_cases, n_items)
    draw = lambda values: np.array(data.draw(st.lists(values, min_size=size, max_size=size)))  # noqa: E731
    scores = draw(SCORES).astype(np.float32).reshape(shape)
    targets = draw(st.booleans()).reshape(shape)
    excluded = draw(st.booleans()).reshape(shape) & ~targets
    arguments = {
        "targets": csr_matrix(targets),
        "excluded": csr_matrix(excluded),
        "length": data.draw(st.integers(1, 14)),
    }
    fast, slow = ranked_lists(scores, **arguments), ranked_lists_reference(scores, **arguments)
    np.testing.assert_array_equal(fast.items, slow.items)
    np.testing.assert_array_equal(fast.hits, slow.hits)


def test_lists_equal_the_reference_on_continuous_scores():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((8, 300), dtype=np.float32)
    targets = rng.random((8, 300)) < 0.05
    arguments = {
        "targets": csr_matrix(targets),
        "excluded": csr_matrix((rng.random((8, 300)) < 0.2) & ~targets),
        "length": 50,
    }
    fast, slow = ranked_lists(scores, **arguments), ranked_lists_reference(scores, **arguments)
    np.testing.assert_array_equal(fast.items, slow.items)
    np.testing.assert_array_equal(fast.hits, slow.hits)


def test_a_tie_counts_against_the_target():
    assert one_case([1, 1, 1, 0], targets={0}, length=3) == ([1, 2, 0], [False, False, True])


def test_tied_targets_do_not_push_each_other_past_the_others():
    items, hits = one_case([1, 1, 2, 1], targets={0, 1}, length=4)
    assert items == [2, 3, 0, 1]
    assert hits == [False, False, True, True]


def test_a_constant_scorer_hits_nothing():
    _, hits = one_case([7] * 30, targets={0, 1, 2}, length=20)
    assert not any(hits)


def test_excluded_items_and_infinitely_low_ones_are_not_listed():
    items, _ = one_case([3, 2, -np.inf, 1], excluded={0}, length=4)
    assert items == [1, 3, NO_ITEM, NO_ITEM]


def test_scores_are_left_as_they_were():
    scores = np.array([[-1.0, 2.0, -0.0]], dtype=np.float32)
    before = scores.copy()
    ranked_lists(scores, targets=csr_matrix((1, 3)), excluded=csr_matrix((1, 3)), length=2)
    np.testing.assert_array_equal(scores, before)


HITS = np.array([[True, False, True, False], [False, False, False, True], [False] * 4])
N_TARGETS = np.array([3, 1, 2])


def test_recall_is_over_all_targets():
    np.testing.assert_allclose(recall(HITS, N_TARGETS, 3), [2 / 3, 0, 0])


def test_ndcg_is_over_the_best_ranking_of_min_k_targets():
    gain = 1 + 1 / np.log2(4)
    ideal = 1 + 1 / np.log2(3)
    np.testing.assert_allclose(ndcg(HITS, N_TARGETS, 4)[0], gain / (ideal + 1 / np.log2(4)))
    np.testing.assert_allclose(ndcg(HITS, N_TARGETS, 2)[0], 1 / ideal)
    np.testing.assert_allclose(ndcg(HITS, N_TARGETS, 4)[1], 1 / np.log2(5))


def test_a_cutoff_longer_than_the_lists_is_allowed():
    np.testing.assert_allclose(recall(HITS, N_TARGETS, 9), [2 / 3, 1, 0])
    assert ndcg(HITS, np.array([1, 1, 1]), 9)[2] == 0


def test_hit_rate_and_reciprocal_rank():
    np.testing.assert_array_equal(hit_rate(HITS, 3), [1, 0, 0])
    np.testing.assert_allclose(reciprocal_rank(HITS, 4), [1, 1 / 4, 0])
    np.testing.assert_allclose(reciprocal_rank(HITS, 3), [1, 0, 0])


def test_novelty_is_the_mean_information_of_what_is_listed():
    popularity = np.array([3.0, 0.0, 1.0])  # shares with one added: 4/7, 1/7, 2/7
    items = np.array([[0, 1], [2, NO_ITEM], [NO_ITEM, NO_ITEM]])
    expected = [(np.log2(7 / 4) + np.log2(7)) / 2, np.log2(7 / 2), 0]
    np.testing.assert_allclose(novelty(items, popularity, 2), expected)


def test_exposure_and_coverage_ignore_empty_places():
    shown = exposure(np.array([[0, 2], [0, NO_ITEM]]), 4, 2)
    np.testing.assert_array_equal(shown, [2, 0, 1, 0])
    assert coverage(shown) == pytest.approx(0.5)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20))
def test_gini_equals_the_reference(shown):
    assert gini(np.array(shown)) == pytest.approx(gini_reference(np.array(shown)), abs=1e-12)


def test_gini_is_zero_for_equal_exposure_and_near_one_for_a_single_winner():
    assert gini(np.array([4, 4, 4])) == 0
    assert gini(np.array([0] * 99 + [5])) == pytest.approx(0.99)
    assert gini(np.array([0, 0])) == 0
