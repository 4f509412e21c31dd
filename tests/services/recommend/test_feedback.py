import threading

import pytest

from feature_store.offline import FeedbackLog

from .conftest import publish, serving


def send(client, **body):
    response = client.post("/v1/feedback", json={"user_id": "u", "item_id": "film-sea-01"} | body)
    assert response.status_code == 200, response.text
    return response.json()


def test_the_same_feedback_counts_once(client, redis_client, settings):
    assert send(client, feedback_id="f1")["status"] == "applied"
    assert send(client, feedback_id="f1")["status"] == "duplicate"
    assert redis_client.llen("errata:default:history:u") == 1
    assert FeedbackLog(settings().offline / "feedback").read().height == 1


def test_concurrent_copies_of_one_feedback_count_once(client, redis_client):
    threads = [
        threading.Thread(target=send, args=(client,), kwargs={"feedback_id": "same"})
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert redis_client.llen("errata:default:history:u") == 1


def test_feedback_is_joined_with_the_prediction_that_was_served(client, settings):
    served = client.post("/v1/recommendations", json={"user_id": "u", "k": 3}).json()
    answer = send(client, prediction_id=served["prediction_id"])
    assert answer["known_prediction"]
    row = FeedbackLog(settings().offline / "feedback").read().to_dicts()[0]
    assert row["prediction_id"] == served["prediction_id"]
    assert row["model_version"] == served["model_version"]


def test_feedback_for_an_unknown_prediction_or_item_is_kept_and_said(client, settings):
    answer = send(client, prediction_id="never-served", item_id="not-in-the-catalogue")
    assert answer == {
        "status": "applied",
        "known_item": False,
        "known_prediction": False,
        "degraded": False,
    }
    assert FeedbackLog(settings().offline / "feedback").read().height == 1


@pytest.mark.parametrize("weight", [0, -1, 1e9, "NaN"])
def test_a_weight_that_is_no_strength_is_refused(client, weight):
    response = client.post("/v1/feedback", json={"user_id": "u", "item_id": "i", "weight": weight})
    assert response.status_code == 422


def test_a_click_that_another_process_was_told_of_is_in_the_next_answer(
    registry, settings, tmp_path
):
    publish(registry, tmp_path / "edition")
    with serving(settings()) as one, serving(settings()) as other:
        body = {"user_id": "ann", "k": 5, "history": []}
        told = {"user_id": "ann", "item_id": "film-war-01", "type": "click"}
        assert other.post("/v1/feedback", json=told).json()["status"] == "applied"
        first = one.post("/v1/recommendations", json=body).json()
        again = one.post("/v1/recommendations", json=body).json()
        assert again["items"] == first["items"]
        best = first["items"][0]["item_id"]
        other.post("/v1/feedback", json=told | {"item_id": best})
        after = one.post("/v1/recommendations", json=body).json()
        assert best not in [item["item_id"] for item in after["items"]]
        assert not after["degraded"]
