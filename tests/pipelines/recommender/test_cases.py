import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from feature_store.interactions.catalogue import Catalogue
from pipelines.recommender.cases import (
    EvaluationCases,
    Split,
    fixed_split,
    leave_last_out,
    temporal_split,
)
from pipelines.recommender.pipeline import type_slices


def cases_of(history, targets, /, **changes):
    history = csr_matrix(np.array(history, dtype=np.float32))
    arguments = {
        "history": history,
        "targets": csr_matrix(np.array(targets, dtype=np.bool_)),
        "excluded": history.astype(np.bool_),
        "user_rows": np.arange(history.shape[0]),
    }
    return EvaluationCases(**arguments | changes)


def test_a_slice_per_type_counts_the_targets_of_that_type():
    catalogue = Catalogue(("a", "b", "c", "d"), ("book", "film", "film", "song"))
    cases = cases_of([[0, 0, 0, 0], [1, 0, 0, 0]], [[1, 1, 0, 0], [0, 1, 1, 0]])
    slices = type_slices(cases, catalogue)
    assert [*slices] == ["type=film", "type=book"]  # nobody is asked for a song
    assert slices["type=film"].tolist() == [False, True, True, False]
    only_films = cases_of([[0, 0, 0, 0]], [[0, 1, 1, 0]])
    assert type_slices(only_films, catalogue) == {}


def log(*rows):
    user, item, *rest = np.array(rows).T
    return (user, item, *rest)


def test_cases_know_their_size():
    cases = cases_of([[1, 0, 0], [0, 0, 0]], [[0, 1, 1], [1, 0, 0]])
    assert len(cases) == 2
    assert cases.n_items == 3
    assert cases.n_targets.tolist() == [2, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history": csr_matrix((2, 4), dtype=np.float32)}, r"history has shape \(2, 4\)"),
        ({"user_rows": np.arange(3)}, "3 user rows for 2 cases"),
        ({"targets": csr_matrix((2, 3), dtype=np.bool_)}, "2 of 2 cases have no target"),
        ({"excluded": csr_matrix(np.ones((2, 3), dtype=np.bool_))}, "3 targets are excluded"),
        ({"candidates": np.array([True, True, False])}, "1 targets are not among the candidates"),
        ({"candidates": np.array([1, 1, 1])}, "candidates is int64"),
        ({"slices": {"warm": np.ones(3, np.bool_)}}, r"slice 'warm' is bool \(3,\), not bool \(2,"),
        ({"item_slices": {"new": np.ones(2, np.bool_)}}, "item slice 'new'"),
        ({"slices": {"all": np.ones(2, np.bool_)}}, r"\['all'\]"),
        (
            {"slices": {"a": np.ones(2, np.bool_)}, "item_slices": {"a": np.ones(3, np.bool_)}},
            r"used twice or reserved: \['a'\]",
        ),
    ],
)
def test_impossible_cases_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        cases_of([[1, 0, 0], [0, 0, 0]], [[0, 1, 1], [1, 0, 0]], **changes)


def test_explicit_zeros_are_refused():
    history = csr_matrix((np.zeros(1, np.float32), ([0], [2])), shape=(1, 3))
    with pytest.raises(ValueError, match="history holds duplicates or explicit zeros"):
        cases_of([[0, 0, 0]], [[0, 1, 0]], history=history)


def test_no_case_is_refused():
    with pytest.raises(ValueError, match="no case to evaluate"):
        cases_of(np.zeros((0, 3)), np.zeros((0, 3)))


def test_temporal_split_cuts_everybody_at_the_same_moments():
    user, item, time = log(*[(i % 3, i, 100 * i) for i in range(10)])
    split = temporal_split(
        user, item, time, n_users=3, n_items=10, test_share=0.2, validation_share=0.1
    )
    assert split.part.tolist() == ["train"] * 7 + ["validation"] + ["test"] * 2


@given(
    time=st.lists(st.integers(0, 20), min_size=2, max_size=40),
    test_share=st.floats(0.05, 0.5),
    validation_share=st.floats(0, 0.4),
)
def test_temporal_split_never_trains_on_the_future(time, test_share, validation_share):
    time = np.array(time)
    user, item = np.zeros_like(time), np.arange(len(time))
    try:
        split = temporal_split(
            user,
            item,
            time,
            n_users=1,
            n_items=len(time),
            test_share=test_share,
            validation_share=validation_share,
        )
    except ValueError as error:
        assert "no interaction is earlier" in str(error)  # noqa: PT017
        return
    train, validation, test = (time[split.part == p] for p in ("train", "validation", "test"))
    assert train.max() < min([*validation, *test])
    assert max([*train, *validation]) < test.min()


def test_temporal_split_needs_a_past():
    user, item, time = log((0, 0, 5), (0, 1, 5))
    with pytest.raises(ValueError, match="earlier than the cut at 5 ms"):
        temporal_split(user, item, time, n_users=1, n_items=2)


def test_users_without_a_past_are_new_users():
    user, item, time = log((0, 0, 1), (0, 1, 2), (1, 1, 9), (0, 2, 9))
    split = temporal_split(
        user, item, time, n_users=2, n_items=3, test_share=0.5, validation_share=0
    )
    cases = split.cases("test")
    assert cases.user_rows.tolist() == [0, 1]
    assert cases.slices["warm"].tolist() == [True, False]
    assert cases.slices["new_users"].tolist() == [False, True]
    assert "cold" not in cases.slices
    assert cases.item_slices["cold_items"].tolist() == [False, False, True]


def test_what_was_consumed_before_is_excluded_and_no_target():
    split = fixed_split(
        *log((0, 0), (0, 0), (0, 1), (1, 1), (1, 1)),
        ["train", "test", "test", "train", "test"],
        n_users=2,
        n_items=2,
    )
    cases = split.cases("test")
    assert cases.user_rows.tolist() == [0]
    assert cases.targets.toarray().tolist() == [[False, True]]
    assert cases.excluded.toarray().tolist() == [[True, False]]


def test_candidates_decide_who_is_warm_and_what_counts():
    split = fixed_split(
        *log((0, 0), (0, 2), (1, 1), (1, 2), (2, 0), (2, 1)),
        ["train", "test", "train", "test", "train", "test"],
        n_users=3,
        n_items=4,
    )
    cases = split.cases("test", candidates=np.array([False, True, True, False]))
    assert cases.user_rows.tolist() == [0, 1, 2]
    assert cases.slices["warm"].tolist() == [False, True, False]
    assert cases.slices["cold"].tolist() == [True, False, True]
    only_last = split.cases("test", candidates=np.array([False, False, True, False]))
    assert only_last.user_rows.tolist() == [0, 1]


def test_history_may_span_several_parts():
    split = fixed_split(
        *log((0, 0), (0, 1), (0, 2)), ["train", "validation", "test"], n_users=1, n_items=3
    )
    assert split.cases("test").history.toarray().tolist() == [[1, 0, 0]]
    both = split.cases("test", history=("train", "validation"))
    assert both.history.toarray().tolist() == [[1, 1, 0]]


def test_a_part_without_anything_new_is_an_error():
    split = fixed_split(*log((0, 0)), ["train"], n_users=1, n_items=1)
    with pytest.raises(ValueError, match="new interaction in the test part"):
        split.cases("test")


def test_leave_last_out_goes_by_time():
    user, item, time = log((0, 0, 30), (0, 1, 10), (0, 2, 20), (1, 0, 5), (1, 1, 4), (2, 0, 1))
    split = leave_last_out(user, item, time, n_users=3, n_items=3)
    assert split.part.tolist() == ["test", "train", "validation", "test", "train", "train"]


def test_leave_last_out_goes_by_file_order_without_timestamps():
    user, item = log((0, 2), (1, 0), (0, 1), (1, 2), (0, 0))
    split = leave_last_out(user, item, n_users=2, n_items=3)
    assert split.part.tolist() == ["train", "train", "validation", "test", "test"]


def test_leave_last_out_at_random_is_repeatable():
    user, item = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    make = lambda seed: leave_last_out(user, item, n_users=20, n_items=10, seed=seed).part  # noqa: E731
    np.testing.assert_array_equal(make(1), make(1))
    assert (make(1) != make(2)).any()
    assert (make(1) == "test").sum() == 20


def test_leave_last_out_among_some_items_only():
    user, item = log((0, 0), (0, 1), (0, 2), (1, 0), (1, 2))
    among = np.array([False, True, False])
    split = leave_last_out(user, item, n_users=2, n_items=3, among=among)
    assert split.part.tolist() == ["train", "test", "train", "train", "train"]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_leave_last_out_always_leaves_something_to_train_on(user):
    user = np.array(user)
    split = leave_last_out(user, np.arange(len(user)), n_users=5, n_items=len(user))
    assert set(user[split.part == "train"]) == set(user)
    for part in ("validation", "test"):
        assert np.bincount(user[split.part == part], minlength=1).max() <= 1


def test_validation_is_a_share_of_each_users_training():
    user = np.repeat([0, 1, 2], [10, 20, 3])
    labels = ["train"] * 33
    split = fixed_split(user, np.arange(33), labels, n_users=3, n_items=33)
    part = split.with_validation(share=0.2, seed=0).part
    assert [int((part[user == u] == "validation").sum()) for u in range(3)] == [2, 4, 0]
    assert (split.part == "train").all()


def test_interactions_are_ones_however_often_a_pair_occurs():
    split = fixed_split(*log((0, 1), (0, 1), (1, 0)), ["train"] * 3, n_users=2, n_items=2)
    assert split.interactions("train").toarray().tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": np.array(["train", "holdout"])}, r"labels \['holdout'\]"),
        ({"part": np.array(["train"])}, "2 users, 2 items and 1 labels"),
        ({"n_items": 1}, r"item indices 0…1 not in \[0, 1\)"),
        ({"user": np.array([-1, 0])}, "user indices -1…0"),
    ],
)
def test_impossible_splits_are_refused(change, message):
    arguments = {
        "user": np.array([0, 0]),
        "item": np.array([0, 1]),
        "part": np.array(["train", "test"]),
        "n_users": 1,
        "n_items": 2,
    }
    with pytest.raises(ValueError, match=message):
        Split(**arguments | change)
