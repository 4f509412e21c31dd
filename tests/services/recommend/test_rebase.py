"""A new version's memory begins with recent outcomes, as the new version predicts them."""

import itertools
import threading

import httpx
import numpy as np
import pytest

from feature_store.editions.memory_keys import MemoryKeys
from feature_store.error_memory.events import EventLog, erase_events
from feature_store.error_memory.log import MemoryLog
from services.recommend.memory import VersionMemory
from tests.patience import within

from .conftest import make_edition, publish, serving

eventually = within(30)


def answered(client, *, user, item=0, type="click", history=("film-sea-01",)):
    answer = client.post("/v1/recommendations", json={"history": list(history), "k": 4}).json()
    body = {
        "user_id": user,
        "item_id": answer["items"][item]["item_id"],
        "type": type,
        "prediction_id": answer["prediction_id"],
        "feedback_id": f"f-{user}",
    }
    assert client.post("/v1/feedback", json=body).json()["known_prediction"]
    return answer, body


def entries(redis_client, version):
    log = MemoryLog(redis_client, model="recommender", version=version)
    return [batch for _, batch in log.entries()]


@pytest.fixture
def learned(registry, settings, tmp_path, redis_client):
    """A service whose first version has had six outcomes."""
    old = publish(registry, tmp_path / "old", seed=0)
    with serving(settings()) as client:
        for number in range(6):
            answered(
                client, user=f"u{number}", item=number % 2, type=("click", "dismiss")[number % 2]
            )
        eventually(lambda: len(EventLog(redis_client, model="recommender")) == 6)
        yield client, old


def test_a_promoted_version_starts_from_its_own_errors(learned, registry, tmp_path, redis_client):
    client, old = learned
    new = publish(registry, tmp_path / "new", seed=1)
    eventually(lambda: client.get("/healthz").json()["model_version"] == new)
    before, after = entries(redis_client, old), entries(redis_client, new)
    assert sum(map(len, after)) == sum(map(len, before)) == 6
    told = [np.concatenate([b.labels for b in each]) for each in (before, after)]
    np.testing.assert_array_equal(*told)
    ids = [np.concatenate([b.feedback_ids for b in each]) for each in (before, after)]
    np.testing.assert_array_equal(*ids)
    # Keys and predictions are the new version's own.
    keys = MemoryKeys(make_edition(1).item_vectors)
    own = np.concatenate([b.keys for b in after])[:, keys.d // 2 :]
    predictions = [np.concatenate([b.predictions for b in each]) for each in (before, after)]
    assert not np.allclose(*predictions)
    assert np.isfinite(np.concatenate([b.losses for b in after])).all()
    assert own.shape == (6, keys.d // 2)
    # The same feedback again counts once there too.
    log = MemoryLog(redis_client, model="recommender", version=new)
    assert log.position() == 6


def test_a_late_outcome_of_the_version_before_teaches_the_one_that_serves(
    learned, registry, tmp_path, redis_client
):
    client, _ = learned
    body = {"history": ["film-war-03"], "k": 3}
    answers = [client.post("/v1/recommendations", json=body).json() for _ in range(40)]
    new = publish(registry, tmp_path / "new", seed=1)
    eventually(lambda: client.get("/healthz").json()["model_version"] == new)
    log = MemoryLog(redis_client, model="recommender", version=new)
    assert log.position() == 6

    def one_more():
        # The version before is let go with the next look at the aliases.
        answer = answers.pop()
        body = {"item_id": answer["items"][0]["item_id"], "prediction_id": answer["prediction_id"]}
        client.post("/v1/feedback", json=body | {"user_id": "late"})
        return log.position() > 6

    eventually(one_more)


def test_what_is_said_while_a_version_is_loaded_reaches_it_too(
    learned, registry, tmp_path, redis_client
):
    client, _ = learned
    stop, numbers = threading.Event(), itertools.count()

    def load():
        with httpx.Client(base_url=client.base_url, timeout=30) as own:
            while not stop.is_set():
                answered(own, user=f"meanwhile {next(numbers)}")

    loading = threading.Thread(target=load)
    loading.start()
    new = publish(registry, tmp_path / "new", seed=1)
    eventually(lambda: client.get("/healthz").json()["model_version"] == new)
    stop.set()
    loading.join()

    def all_of_it():
        told = {
            number
            for event in EventLog(redis_client, model="recommender").recent()
            for number in event.ids.values()
        }
        known = [batch.feedback_ids for batch in entries(redis_client, new)]
        return len(told) > 6 and told <= set(np.concatenate(known).tolist())

    eventually(all_of_it)


def test_decisions_about_the_predecessor_hold_on_and_it_happens_once(
    learned, registry, tmp_path, redis_client
):
    client, old = learned
    MemoryLog(redis_client, model="recommender", version=old).forget_source("u1")
    new = publish(registry, tmp_path / "new", seed=1)
    eventually(lambda: client.get("/healthz").json()["model_version"] == new)
    log = MemoryLog(redis_client, model="recommender", version=new)
    assert log.position() == 5
    memory = VersionMemory(
        redis_client, model="recommender", version=new, tenant="default", edition=make_edition(1)
    )
    try:
        assert (memory.rebased.fresh, memory.rebased.predecessor) == (False, old)
        assert log.position() == 5
        assert len(memory.replica.memory) == 5
    finally:
        memory.close()


def test_what_a_user_said_is_forgotten_before_the_next_version(learned, redis_client):
    assert erase_events(redis_client, "u3") == 1
    assert len(EventLog(redis_client, model="recommender").recent()) == 5
