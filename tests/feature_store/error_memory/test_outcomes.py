from dataclasses import replace

import numpy as np
import pytest

from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.outcomes import Outcomes, Served, cases


class Clock:
    now = 1_700_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(redis_client):
    return MemoryLog(redis_client, model="m", version="v1")


@pytest.fixture
def outcomes(redis_client, log, clock):
    return Outcomes(redis_client, lambda _, batch: log.append(batch), window_s=60, clock=clock)


def served(prediction_id="p1", names=("a", "b", "c")):
    n = len(names)
    keys = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    predictions = np.full((n, 1), 0.25, np.float32)
    return Served(
        prediction_id, "v1", "policy", names, cases(keys, predictions, np.full((n, 3), 0.25)), "u"
    )


def entries(log):
    return [
        (float(label), round(float(loss), 1))
        for _, batch in log.entries()
        for label, loss in zip(batch.labels[:, 0], batch.losses[:, 0], strict=True)
    ]


def test_an_outcome_becomes_an_entry_with_its_losses(outcomes, log):
    outcomes.expect([served()])
    assert outcomes.outcome("p1", "b", 1.0, feedback_id="f")
    assert entries(log) == [(1.0, 1.4)]  # -log(0.25)
    ((_, batch),) = log.entries()
    assert batch.keys.tolist() == [[4, 5, 6, 7]]


def test_the_same_feedback_counts_once_and_other_feedback_again(outcomes, log):
    outcomes.expect([served()])
    assert outcomes.outcome("p1", "a", 1.0, feedback_id="f")
    assert not outcomes.outcome("p1", "a", 1.0, feedback_id="f")
    assert outcomes.outcome("p1", "b", 1.0, feedback_id="f2")
    assert len(entries(log)) == 2


def test_what_cannot_be_joined_is_no_entry(outcomes, log):
    outcomes.expect([served()])
    assert not outcomes.outcome("never served", "a", 1.0, feedback_id="f")
    assert not outcomes.outcome("p1", "not in it", 1.0, feedback_id="f")
    assert entries(log) == []


def test_what_was_left_counts_against_it_once_the_window_is_over(outcomes, log, clock):
    outcomes.expect([served(), served("nobody looked")])
    outcomes.outcome("p1", "b", 1.0, feedback_id="f")
    assert outcomes.sweep() == 0
    clock.now += 61
    assert outcomes.sweep() == 2
    assert outcomes.sweep() == 0
    assert sorted(entries(log)) == [(0.0, 0.3), (0.0, 0.3), (1.0, 1.4)]


def test_a_click_that_comes_after_the_window_still_counts(outcomes, log, clock):
    outcomes.expect([served()])
    outcomes.outcome("p1", "b", 1.0, feedback_id="f")
    clock.now += 61
    outcomes.sweep()
    assert outcomes.outcome("p1", "a", 1.0, feedback_id="late")
    assert entries(log)[-1] == (1.0, 1.4)


def test_answers_that_nobody_acted_upon_count_where_that_is_asked_for(redis_client, log, clock):
    told = []
    outcomes = Outcomes(
        redis_client,
        lambda _, batch: log.append(batch),
        window_s=60,
        unanswered=True,
        clock=clock,
        record=told.append,
    )
    outcomes.expect([replace(served("nobody looked"), case=b"what was seen")])
    assert outcomes.sweep() == 0
    clock.now += 61
    assert outcomes.sweep() == 3
    assert outcomes.sweep() == 0
    (event,) = told
    assert (event.case, event.labels) == (b"what was seen", {"a": 0.0, "b": 0.0, "c": 0.0})
