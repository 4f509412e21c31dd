import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from pipelines.traffic.metrics import (
    accuracy,
    calibration_error,
    macro_f1,
    paired_interval,
    unknown_detection,
)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_macro_f1_is_that_of_the_classes_that_occur(pairs: list[tuple[int, int]]) -> None:
    label, found = np.array(pairs).T
    expected = f1_score(label, found, labels=np.unique(label), average="macro", zero_division=0)
    assert macro_f1(label, found, classes=4) == pytest.approx(expected)


def test_a_rejected_flow_is_a_miss_and_no_false_claim() -> None:
    label = np.array([0, 0, 1, 1])
    assert macro_f1(label, np.array([0, -1, 1, 1]), classes=2) == pytest.approx((2 / 3 + 1) / 2)


def test_calibration_error_of_honest_and_of_boastful_confidence() -> None:
    label = np.array([0] * 80 + [1] * 20)
    honest = np.tile(np.array([0.8, 0.2], np.float32), (100, 1))
    boastful = np.tile(np.array([1.0, 0.0], np.float32), (100, 1))
    assert calibration_error(label, honest) == pytest.approx(0, abs=1e-6)
    assert calibration_error(label, boastful) == pytest.approx(0.2, abs=1e-6)


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
    st.lists(st.integers(0, 9), min_size=1, max_size=40),
)
def test_auroc_counts_ties_half(known: list[int], unknown: list[int]) -> None:
    truth = np.array([0] * len(known) + [1] * len(unknown))
    found = unknown_detection(np.array(known, float), np.array(unknown, float))
    assert found.auroc == pytest.approx(roc_auc_score(truth, np.array(known + unknown)))


def test_an_interval_of_a_real_gain_is_above_zero() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 600)
    ours = np.where(rng.random(600) < 0.9, label, (label + 1) % 3)
    theirs = np.where(rng.random(600) < 0.6, label, (label + 1) % 3)
    low, high = paired_interval(label, ours, theirs, classes=3, resamples=200, rng=rng)
    assert 0 < low < accuracy(label, ours) - accuracy(label, theirs) < high
