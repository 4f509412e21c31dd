import numpy as np
import pytest

from feature_store.editions import memory_keys
from feature_store.error_memory.log import MemoryLog
from feature_store.offline import FeedbackLog
from services.recommend.memory_policy import DEFAULT_POLICY
from tests.patience import within

from .conftest import publish, serving

eventually = within(30)


def ask(client, **body):
    response = client.post("/v1/recommendations", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def best(client):
    return ask(client, history=["film-sea-01"], k=5, explain=True)["items"][0]


@pytest.fixture
def memory(registry, settings, tmp_path, redis_client):
    """A served version without probation, and its log."""
    version = publish(registry, tmp_path / "staging")
    log = MemoryLog(redis_client, model="recommender", version=version)
    eager = DEFAULT_POLICY.model_copy(update={"probation": 0.0, "evidence": 0.3, "base_prior": 0.1})
    log.decide("policy", **eager.model_dump(mode="json"))
    with serving(settings()) as client:
        yield client, log


def test_a_rejected_item_falls_for_others_like_it(memory):
    client, log = memory
    first = ask(client, history=["film-sea-01"], k=5, explain=True)
    top = first["items"][0]
    assert top["corrections"] == []
    for step in range(12):
        answer = ask(client, history=["film-sea-01"], k=5)
        shown = [item["item_id"] for item in answer["items"]]
        if top["item_id"] not in shown:
            break
        body = {
            "user_id": f"u{step}",
            "item_id": top["item_id"],
            "type": "dismiss",
            "prediction_id": answer["prediction_id"],
        }
        assert client.post("/v1/feedback", json=body).json()["known_prediction"]
        # Other users like what is beside it.
        for other in shown[1:3]:
            body = body | {"item_id": other, "type": "click"}
            client.post("/v1/feedback", json=body)
    assert log.position() >= 3
    eventually(lambda: best(client)["item_id"] != top["item_id"])
    assert [each["by"] for each in best(client)["corrections"]] == ["memory"]
    # Compiled once, when the version was loaded: not again when the memory begins to speak.
    assert len(memory_keys._fill.signatures) == 1


def test_the_same_feedback_twice_is_one_error(memory):
    client, log = memory
    answer = ask(client, history=["film-sea-01"], k=3)
    body = {
        "user_id": "u",
        "item_id": answer["items"][0]["item_id"],
        "prediction_id": answer["prediction_id"],
        "feedback_id": "f1",
    }
    assert client.post("/v1/feedback", json=body).json()["status"] == "applied"
    assert client.post("/v1/feedback", json=body).json()["status"] == "duplicate"
    assert log.position() == 1


def test_feedback_for_an_expired_prediction_is_in_the_offline_log(memory, tmp_path, redis_client):
    client, log = memory
    answer, later = (ask(client, history=["film-sea-01"], k=3) for _ in range(2))

    def kept(prediction):
        return redis_client.keys(f"errata:default:*{prediction['prediction_id']}*")

    # They are kept behind the answer, in order: with the later one there, the first is done with.
    eventually(lambda: len(kept(later)) == 2)
    assert redis_client.delete(*kept(answer)) == 2
    body = {
        "user_id": "u",
        "item_id": answer["items"][0]["item_id"],
        "prediction_id": answer["prediction_id"],
    }
    reply = client.post("/v1/feedback", json=body).json()
    assert reply["known_prediction"] is False
    assert log.position() == 0
    assert len(FeedbackLog(tmp_path / "offline" / "feedback").read()) == 1


def test_off_gives_the_model_alone(memory):
    client, log = memory
    log.decide("off")
    before = ask(client, history=["film-love-03"], k=5)
    for item in before["items"]:
        body = {"user_id": "u", "item_id": item["item_id"], "type": "dismiss"}
        client.post("/v1/feedback", json=body | {"prediction_id": before["prediction_id"]})
    again = ask(client, history=["film-love-03"], k=5, explain=True)
    np.testing.assert_allclose(
        [item["score"] for item in again["items"]], [item["score"] for item in before["items"]]
    )
