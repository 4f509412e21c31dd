"""Outcomes from a Redis Stream: at least once, counted once, in whatever order they come."""

import json

import pytest

from feature_store.offline import FeedbackLog
from feature_store.online.messages import RedisMessages
from tests.errata.outcome_streams import reading
from tests.patience import within

eventually = within(30)

STREAM = "outcomes"


@pytest.fixture
def service(tmp_path, redis_server, redis_client):
    with reading(STREAM, tmp_path, redis_server, redis_client) as both:
        yield both


def asked(client):
    body = {"history": ["film-sea-01"], "k": 3}
    return client.post("/v1/recommendations", json=body).json()


def outcome(answer, *, item=0, **changes):
    return {
        "user_id": "u",
        "item_id": answer["items"][item]["item_id"],
        "prediction_id": answer["prediction_id"],
    } | changes


def settled(redis_client, n):
    (group,) = redis_client.xinfo_groups(STREAM)
    return group["entries-read"] == n and group["pending"] == 0


def test_an_outcome_is_joined_whichever_way_it_is_written(service, redis_client, tmp_path):
    client, log = service
    first, second = asked(client), asked(client)
    redis_client.xadd(STREAM, {"json": json.dumps(outcome(first))})
    redis_client.xadd(STREAM, outcome(second, type="dismiss", weight=0.5))
    eventually(lambda: log.position() == 2)
    labels = [float(batch.labels[0, 0]) for _, batch in log.entries()]
    assert sorted(labels) == [0.0, 1.0]
    eventually(lambda: settled(redis_client, 2))
    assert len(FeedbackLog(tmp_path / "offline" / "feedback").read()) == 2


def test_a_message_that_comes_twice_counts_once_and_late_ones_count(service, redis_client):
    client, log = service
    answers = [asked(client) for _ in range(3)]
    for answer in reversed(answers):  # out of order
        for _ in range(2):  # and each twice
            redis_client.xadd(STREAM, outcome(answer, feedback_id=answer["prediction_id"]))
    eventually(lambda: settled(redis_client, 6))
    assert log.position() == 3


def test_one_that_another_consumer_left_is_taken_over_and_counts_once(
    service, redis_client, redis_server
):
    client, log = service
    answer = asked(client)
    # Another consumer of the group read it, did its work, and died before it said so.
    other = RedisMessages(redis_client, "left", consumer="dead")
    other.read(block_ms=1)
    redis_client.xadd("left", outcome(answer, feedback_id="f"))
    (message,) = other.read(block_ms=100)
    client.post("/v1/feedback", json=outcome(answer, feedback_id="f"))
    eventually(lambda: log.position() == 1)
    heir = RedisMessages(redis_client, "left", consumer="heir", take_over_after_s=0.001)
    eventually(lambda: heir.read(block_ms=1) == [message])
    again = RedisMessages(redis_client, "left", consumer="heir", again_after_s=0)
    assert list(again.read(block_ms=1)) == [message]  # until it is acknowledged
    client.post("/v1/feedback", json=outcome(answer, feedback_id="f"))
    again.acknowledge([message])
    assert list(again.read(block_ms=1)) == []
    assert log.position() == 1


def test_what_can_never_be_understood_is_set_aside_and_the_rest_goes_on(service, redis_client):
    client, log = service
    redis_client.xadd(STREAM, {"json": "no json"})
    redis_client.xadd(STREAM, {"user_id": "u"})
    redis_client.xadd(STREAM, {"prediction_id": "p", "label": "chat"})  # no traffic here
    redis_client.xadd(STREAM, {b"\xff\xfe": "no text"})
    redis_client.xadd(STREAM, outcome(asked(client)))
    eventually(lambda: log.position() == 1)
    eventually(lambda: settled(redis_client, 5))
    rejected = redis_client.xrange(f"{STREAM}:rejected")
    assert len(rejected) == 4
    assert all(fields[b"reason"] for _, fields in rejected)
    metrics = client.get("/metrics").text
    assert 'errata_label_messages_total{outcome="rejected"} 4.0' in metrics


def test_an_outcome_of_nothing_that_was_served_is_in_the_offline_log(
    service, redis_client, tmp_path
):
    _, log = service
    never = {"user_id": "u", "item_id": "film-sea-02", "prediction_id": "never"}
    redis_client.xadd(STREAM, never, id="1000-0")  # long ago: it did not overtake its prediction
    eventually(lambda: settled(redis_client, 1))
    assert log.position() == 0
    assert len(FeedbackLog(tmp_path / "offline" / "feedback").read()) == 1


def test_a_message_from_the_future_is_early_for_seconds_and_not_for_ever(
    service, redis_client, monkeypatch
):
    monkeypatch.setattr("errata.labels.EARLY_MS", 300)
    never = {"user_id": "u", "item_id": "film-sea-02", "prediction_id": "never"}
    redis_client.xadd(STREAM, never, id="99999999999999-0")
    eventually(lambda: settled(redis_client, 1))
