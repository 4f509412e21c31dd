from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from pipelines.recommender.cases import EvaluationCases
from pipelines.recommender.evaluation import (
    MRR_DEPTH,
    evaluate,
    evaluate_case_reference,
    paired_interval,
)


@dataclass
class Fixed:
    """Scores by user row, written down beforehand."""

    table: np.ndarray
    name: str = "fixed"

    def scores(self, _history, user_rows):
        return self.table[user_rows]


def random_cases(rng, *, n_cases=6, n_items=15, candidates=None, **more):
    competing = np.ones(n_items, np.bool_) if candidates is None else candidates
    history = rng.random((n_cases, n_items)) < 0.2
    targets = (rng.random((n_cases, n_items)) < 0.3) & ~history & competing
    missing = np.flatnonzero(~targets.any(axis=1))
    targets[missing, np.flatnonzero(competing)[0]] = True
    history &= ~targets
    return EvaluationCases(
        history=csr_matrix(history.astype(np.float32)),
        targets=csr_matrix(targets),
        excluded=csr_matrix(history),
        user_rows=np.arange(n_cases),
        candidates=candidates,
        **more,
    )


def measure(ranker, cases, **options):
    options = {"item_popularity": np.ones(cases.n_items), "cutoffs": (1, 3)} | options
    return evaluate(ranker, cases, **options)


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), levels=st.integers(1, 5), narrow=st.booleans())
def test_accuracy_equals_the_reference(seed, levels, narrow):
    rng = np.random.default_rng(seed)
    candidates = rng.random(15) < 0.7 if narrow else None
    if candidates is not None:
        candidates[0] = True
    cases = random_cases(rng, candidates=candidates)
    table = rng.integers(levels, size=(6, 15)).astype(np.float32)
    table[rng.random((6, 15)) < 0.1] = -np.inf
    evaluation = measure(Fixed(table), cases, batch_size=4)
    competing = set(range(15)) if candidates is None else set(np.flatnonzero(candidates).tolist())
    for case in range(6):
        for cutoff in (1, 3):
            expected = evaluate_case_reference(
                table[case],
                targets=set(cases.targets[case].indices.tolist()),
                excluded=set(cases.excluded[case].indices.tolist()),
                candidates=competing,
                cutoff=cutoff,
            )
            for metric, value in expected.items():
                found = evaluation.slices["all"].per_case[metric][case]
                assert found == pytest.approx(value), metric


def test_a_constant_scorer_is_worth_nothing():
    rng = np.random.default_rng(0)
    cases = random_cases(rng, n_cases=20, n_items=400)
    constant = Fixed(np.zeros((20, 400), np.float32))
    evaluation = measure(constant, cases, cutoffs=(10, 100))
    for metric in ("recall@10", "ndcg@10", "hr@10", "hr@100", f"mrr@{MRR_DEPTH}"):
        assert evaluation.value(metric) == 0


def test_an_oracle_is_perfect():
    cases = random_cases(np.random.default_rng(1))
    evaluation = measure(Fixed(cases.targets.toarray().astype(np.float32)), cases, cutoffs=(15,))
    for metric in ("recall@15", "ndcg@15", "hr@15", f"mrr@{MRR_DEPTH}"):
        assert evaluation.value(metric) == 1


def test_the_batch_size_changes_nothing():
    rng = np.random.default_rng(2)
    cases = random_cases(rng, n_cases=11)
    ranker = Fixed(rng.random((11, 15), dtype=np.float32))
    one, many = (measure(ranker, cases, batch_size=size) for size in (1, 512))
    for metric in one.slices["all"].metrics:
        assert one.value(metric) == many.value(metric)


def test_progress_is_told_after_every_batch():
    rng = np.random.default_rng(3)
    cases, told = random_cases(rng), []
    ranker = Fixed(rng.random((6, 15), dtype=np.float32))
    measure(ranker, cases, batch_size=4, progress=lambda done, total: told.append((done, total)))
    assert told == [(4, 6), (6, 6)]


def test_slices_take_cases_apart():
    rng = np.random.default_rng(4)
    warm = np.array([True, True, False, False, False, False])
    cases = random_cases(rng, slices={"warm": warm, "nobody": np.zeros(6, np.bool_)})
    evaluation = measure(Fixed(rng.random((6, 15), dtype=np.float32)), cases)
    per_case = evaluation.slices["all"].per_case["ndcg@3"]
    assert evaluation.value("ndcg@3", slice_name="warm") == pytest.approx(per_case[:2].mean())
    assert list(evaluation.slices) == ["all", "warm"]


def test_item_slices_count_some_targets_of_the_same_lists():
    cases = EvaluationCases(
        history=csr_matrix((2, 4), dtype=np.float32),
        targets=csr_matrix(np.array([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=np.bool_)),
        excluded=csr_matrix((2, 4), dtype=np.bool_),
        user_rows=np.arange(2),
        item_slices={"cold_items": np.array([False, True, False, True])},
    )
    evaluation = measure(Fixed(np.array([[4, 3, 2, 1]] * 2, np.float32)), cases, cutoffs=(1, 2))
    cold = evaluation.slices["cold_items"]
    assert cold.rows.tolist() == [0]
    assert cold.value("recall@1") == 0
    assert cold.value("recall@2") == 1
    assert cold.value(f"mrr@{MRR_DEPTH}") == 0.5
    assert evaluation.value("recall@1") == 0.75


def test_only_candidates_are_listed_and_covered():
    candidates = np.array([True, False, True, False])
    cases = EvaluationCases(
        history=csr_matrix((1, 4), dtype=np.float32),
        targets=csr_matrix(np.array([[0, 0, 1, 0]], dtype=np.bool_)),
        excluded=csr_matrix((1, 4), dtype=np.bool_),
        user_rows=np.arange(1),
        candidates=candidates,
    )
    evaluation = measure(Fixed(np.array([[1, 9, 2, 9]], np.float32)), cases, cutoffs=(1,))
    assert evaluation.value("hr@1") == 1
    assert evaluation.value("coverage@1") == 0.5
    assert evaluation.value("gini@1") == 0.5


def test_deciles_say_whose_targets_are_found():
    n_items = 20
    targets = np.zeros((2, n_items), np.bool_)
    targets[0, 0] = targets[1, 19] = True
    cases = EvaluationCases(
        history=csr_matrix((2, n_items), dtype=np.float32),
        targets=csr_matrix(targets),
        excluded=csr_matrix((2, n_items), dtype=np.bool_),
        user_rows=np.arange(2),
    )
    popularity = np.arange(n_items, dtype=np.float64)
    ranker = Fixed(np.tile(popularity.astype(np.float32), (2, 1)))
    deciles = measure(ranker, cases, item_popularity=popularity, cutoffs=(2,)).deciles
    assert deciles.recall[0] == 0
    assert deciles.recall[9] == 1
    assert np.isnan(deciles.recall[1:9]).all()
    assert deciles.exposure.tolist() == [0] * 9 + [1]


def test_nan_scores_are_an_error_that_names_the_ranker():
    cases = random_cases(np.random.default_rng(5))
    table = np.zeros((6, 15), np.float32)
    table[4, 2] = np.nan
    with pytest.raises(ValueError, match="broken returned 1 NaN scores in cases from 3 on"):
        measure(Fixed(table, name="broken"), cases, batch_size=3)


def test_scores_of_another_shape_are_an_error_that_names_the_ranker():
    cases = random_cases(np.random.default_rng(5))
    with pytest.raises(ValueError, match=r"narrow returned scores of shape \(6, 4\), not \(6, 15"):
        measure(Fixed(np.zeros((6, 4), np.float32), name="narrow"), cases)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoffs": ()}, "must be positive"),
        ({"cutoffs": (0, 3)}, "must be positive"),
        ({"batch_size": 0}, "must be positive"),
        ({"item_popularity": np.ones(3)}, "popularity has shape"),
    ],
)
def test_wrong_options_are_refused(options, message):
    cases = random_cases(np.random.default_rng(6))
    with pytest.raises(ValueError, match=message):
        measure(Fixed(np.zeros((6, 15), np.float32)), cases, **options)


def test_unknown_metrics_and_slices_are_named():
    cases = random_cases(np.random.default_rng(6))
    evaluation = measure(Fixed(np.zeros((6, 15), np.float32)), cases)
    with pytest.raises(KeyError, match="no metric 'recall@7'"):
        evaluation.value("recall@7")
    with pytest.raises(KeyError, match="no slice 'cold'"):
        evaluation.value("recall@3", slice_name="cold")


def test_the_paired_interval_holds_the_difference_and_sees_a_clear_one():
    rng = np.random.default_rng(7)
    cases = random_cases(rng, n_cases=200)
    noise = rng.random((200, 15), dtype=np.float32)
    informed = measure(Fixed(noise + 0.5 * cases.targets.toarray()), cases)
    blind = measure(Fixed(noise), cases)
    interval = paired_interval(informed, blind, metric="ndcg@3", seed=0)
    assert interval.low < interval.difference < interval.high
    assert interval.is_clear
    assert interval.n_cases == 200
    assert interval == paired_interval(informed, blind, metric="ndcg@3", seed=0)
    assert not paired_interval(blind, blind, metric="ndcg@3", seed=0).is_clear


def test_the_paired_interval_is_that_of_the_normal_approximation():
    rng = np.random.default_rng(8)
    cases = random_cases(rng, n_cases=400)
    a, b = (measure(Fixed(rng.random((400, 15), dtype=np.float32)), cases) for _ in range(2))
    gain = a.slices["all"].per_case["recall@3"] - b.slices["all"].per_case["recall@3"]
    half_width = 1.96 * gain.std() / np.sqrt(len(gain))
    interval = paired_interval(a, b, metric="recall@3", seed=0)
    assert (interval.high - interval.low) / 2 == pytest.approx(half_width, rel=0.1)


def test_rankers_that_answered_different_cases_are_not_compared():
    rng = np.random.default_rng(9)
    ranker = Fixed(rng.random((6, 15), dtype=np.float32))
    a, b = (measure(ranker, random_cases(rng, n_cases=n)) for n in (6, 5))
    with pytest.raises(ValueError, match="answered different cases"):
        paired_interval(a, b, metric="ndcg@3", seed=0)
