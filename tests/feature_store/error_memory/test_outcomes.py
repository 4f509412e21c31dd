import numpy as np
import orjson
import pytest

from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.outcomes import Expected, Outcomes, cases


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
    return Outcomes(
        redis_client, lambda _, batch: log.append(batch), model="m", window_s=60, clock=clock
    )


def expected(*prediction_ids, case=b""):
    """Predictions of three cases each: the first one's keys are 0…3, 4…7 and 8…11."""
    n = 3 * len(prediction_ids)
    keys = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    predictions = np.full((n, 1), 0.25, np.float32)
    return Expected(
        version="v1",
        fingerprint="policy",
        prediction_ids=prediction_ids,
        names=[("a", "b", "c")] * len(prediction_ids),
        batch=cases(keys, predictions, np.full((n, 3), 0.25)),
        sources=["u"] * len(prediction_ids),
        cases=[case] * len(prediction_ids),
    )


def entries(log):
    return [
        (float(label), round(float(loss), 1))
        for _, batch in log.entries()
        for label, loss in zip(batch.labels[:, 0], batch.losses[:, 0], strict=True)
    ]


def test_an_outcome_becomes_an_entry_with_its_losses(outcomes, log):
    outcomes.expect(expected("p1"))
    assert outcomes.outcome("p1", "b", 1.0, feedback_id="f")
    assert entries(log) == [(1.0, 1.4)]  # -log(0.25)
    ((_, batch),) = log.entries()
    assert batch.keys.tolist() == [[4, 5, 6, 7]]


def test_the_same_feedback_counts_once_and_other_feedback_again(outcomes, log):
    outcomes.expect(expected("p1"))
    assert outcomes.outcome("p1", "a", 1.0, feedback_id="f")
    assert not outcomes.outcome("p1", "a", 1.0, feedback_id="f")
    assert outcomes.outcome("p1", "b", 1.0, feedback_id="f2")
    assert len(entries(log)) == 2


def test_what_cannot_be_joined_is_no_entry(outcomes, log):
    outcomes.expect(expected("p1"))
    assert not outcomes.outcome("never served", "a", 1.0, feedback_id="f")
    assert not outcomes.outcome("p1", "not in it", 1.0, feedback_id="f")
    assert entries(log) == []


def test_what_was_left_counts_against_it_once_the_window_is_over(outcomes, log, clock):
    outcomes.expect(expected("p1", "nobody looked"))
    outcomes.outcome("p1", "b", 1.0, feedback_id="f")
    assert outcomes.sweep() == 0
    clock.now += 61
    assert outcomes.sweep() == 2
    assert outcomes.sweep() == 0
    assert sorted(entries(log)) == [(0.0, 0.3), (0.0, 0.3), (1.0, 1.4)]


def test_what_is_left_is_said_by_whoever_opened_the_window(outcomes, log, clock):
    outcomes.expect(expected("p1"))  # for u
    outcomes.outcome("p1", "b", 1.0, feedback_id="f", source="mallory")
    clock.now += 61
    assert outcomes.sweep() == 2
    assert log.said_by("mallory") == 3


def test_losses_of_another_policys_experts_are_left_out(redis_client, log, clock):
    policy = ["policy"]
    outcomes = Outcomes(
        redis_client, lambda _, batch: log.append(batch), model="m", window_s=60, clock=clock,
        policy_of=lambda _: policy[0],
    )  # fmt: skip
    outcomes.expect(expected("p1"))
    assert outcomes.outcome("p1", "a", 1.0, feedback_id="f")
    policy[0] = "tuned since"
    assert outcomes.outcome("p1", "b", 1.0, feedback_id="f2")
    before, after = (batch.losses for _, batch in log.entries())
    assert np.isfinite(before).all()
    assert np.isnan(after).all()


def test_another_catalogues_answers_are_left_to_it(outcomes, log, clock, redis_client):
    other = MemoryLog(redis_client, model="other", version="v1")
    beside = Outcomes(
        redis_client, lambda _, batch: other.append(batch), model="o", window_s=60, clock=clock
    )
    outcomes.expect(expected("p1"))
    outcomes.outcome("p1", "b", 1.0, feedback_id="f")
    clock.now += 61
    assert beside.sweep() == 0
    assert outcomes.sweep() == 2
    assert other.position() == 0


def test_what_cannot_be_read_is_nothing_that_was_served(outcomes, log, clock, redis_client):
    outcomes.expect(expected("p1", "p2", "p3"))
    for name in ("p1", "p2"):
        outcomes.outcome(name, "b", 1.0, feedback_id="f")
    key = next(each for each in redis_client.keys("*served:p1"))
    redis_client.set(key, redis_client.get(key)[:-7])
    assert not outcomes.outcome("p1", "a", 1.0, feedback_id="f2")
    clock.now += 61
    assert outcomes.sweep() == 2  # of p2


def test_a_later_release_may_keep_more_of_what_was_served(outcomes, redis_client):
    outcomes.expect(expected("p1", case=b"what the model saw"))
    (key,) = redis_client.keys("*served:p1")
    raw = redis_client.get(key)
    size = int.from_bytes(raw[:4], "little")
    facts = orjson.dumps([*orjson.loads(raw[4 : 4 + size]), "more"])
    redis_client.set(key, len(facts).to_bytes(4, "little") + facts + raw[4 + size :])
    assert outcomes.served("p1").case == b"what the model saw"


def test_a_click_that_comes_after_the_window_still_counts(outcomes, log, clock):
    outcomes.expect(expected("p1"))
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
        model="m",
        window_s=60,
        unanswered=True,
        clock=clock,
        record=told.append,
    )
    outcomes.expect(expected("nobody looked", case=b"what was seen"))
    assert outcomes.sweep() == 0
    clock.now += 61
    assert outcomes.sweep() == 3
    assert outcomes.sweep() == 0
    (event,) = told
    assert (event.case, event.labels) == (b"what was seen", {"a": 0.0, "b": 0.0, "c": 0.0})


@pytest.mark.parametrize("case", [b"", b"short", b"long " * 1_000])
def test_predictions_packed_together_are_read_one_by_one(outcomes, case):
    outcomes.expect(expected("p1", "p2", case=case))
    found = outcomes.served("p2")
    assert (found.version, found.names, found.source) == ("v1", ("a", "b", "c"), "u")
    assert found.case == case
    assert found.batch.keys[0].tolist() == [12, 13, 14, 15]
