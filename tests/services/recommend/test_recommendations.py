from dataclasses import replace

import numpy as np
import pytest

from feature_store.editions.popularity_share import PopularityShare
from tests.services.recommend.conftest import make_edition, publish, serving

WAR = ["film-war-01", "film-war-02", "film-war-03"]


def ask(client, **body):
    response = client.post("/v1/recommendations", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def ids(answer):
    return [item["item_id"] for item in answer["items"]]


def test_a_history_brings_items_like_it_and_not_itself(client):
    answer = ask(client, history=WAR, k=10)
    assert len(answer["items"]) == 10
    assert all("-war-" in item_id for item_id in ids(answer))
    assert not set(ids(answer)) & set(WAR)
    assert answer["personalised"]
    assert not answer["degraded"]
    assert answer["prediction_id"]
    scores = [item["score"] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    assert answer["items"][0]["title"].startswith("war ")


def test_seen_items_come_back_when_asked_for(client):
    answer = ask(client, history=WAR, k=40, exclude_seen=False)
    assert set(WAR) <= set(ids(answer))


def test_types_and_exclusions_act_inside_the_search(client):
    excluded = [f"book-war-{n:02}" for n in range(10)]
    answer = ask(client, history=WAR, k=60, item_types=["book"], exclude=excluded)
    assert len(answer["items"]) == 50  # all the books there are, less the excluded
    assert {item["item_type"] for item in answer["items"]} == {"book"}
    assert not set(ids(answer)) & set(excluded)
    assert all("-war-" in each for each in ids(answer)[:10])


def test_nobody_in_particular_gets_what_is_popular(client):
    answer = ask(client, user_id="a stranger", k=5)
    assert not answer["personalised"]
    assert ids(answer) == [f"book-love-{n:02}" for n in range(5)]


def test_one_click_leans_on_popularity_as_far_as_the_edition_says(registry, settings, tmp_path):
    edition = make_edition()
    share = PopularityShare(lengths=(0, 1, 4), shares=(1.0, 0.95, 0.0))
    leaning = replace(
        edition, scoring=edition.scoring.model_copy(update={"popularity_share": share})
    )
    publish(registry, tmp_path / "staging", edition=leaning)
    with serving(settings()) as client:
        short, long = ["film-war-01"], [f"film-war-{n:02}" for n in range(5)]
        for history in (short, long):
            answer = ask(client, history=history, k=10)
            weighed = leaning.weigh([[(edition.catalogue.row_of[each], "") for each in history]])
            exact = leaning.scores(weighed, np.zeros((1, 0), np.float32))[0]
            exact[weighed.indices] = -np.inf
            best = [edition.catalogue.item_ids[row] for row in np.argsort(-exact)[:10]]
            assert ids(answer) == best
        assert "book-love-00" in ids(ask(client, history=short, k=10))  # the most popular
        assert all("-war-" in each for each in ids(ask(client, history=long, k=10)))


def test_a_click_changes_the_next_answer_and_a_dismissal_hides(client):
    before = ask(client, user_id="u1", k=5)
    click = client.post("/v1/feedback", json={"user_id": "u1", "item_id": "film-sea-07"}).json()
    assert click == {
        "status": "applied",
        "known_item": True,
        "known_prediction": None,
        "degraded": False,
    }
    after = ask(client, user_id="u1", k=5)
    assert ids(after) != ids(before)
    assert all("-sea-" in each for each in ids(after))
    dismissed = ids(after)[0]
    client.post("/v1/feedback", json={"user_id": "u1", "item_id": dismissed, "type": "dismiss"})
    last = ask(client, user_id="u1", k=5)
    assert dismissed not in ids(last)
    assert ids(last)[:4] == ids(after)[1:]


def test_a_request_history_is_added_to_the_stored_one(client):
    client.post("/v1/feedback", json={"user_id": "u2", "item_id": "film-sea-07"})
    answer = ask(client, user_id="u2", history=["film-love-01"], k=10)
    genres = {each.split("-")[1] for each in ids(answer)}
    assert genres == {"sea", "love"}


def test_reasons_name_the_history_items_that_brought_a_result(client):
    answer = ask(client, history=[*WAR, "film-love-01"], k=3, explain=True)
    for item in answer["items"]:
        genre = item["item_id"].split("-")[1]
        assert all(genre in reason["item_id"] for reason in item["reasons"][:1])
        parts = [reason["contribution"] for reason in item["reasons"]]
        assert parts == sorted(parts, reverse=True)
    assert ask(client, history=WAR, k=1)["items"][0]["reasons"] is None


def test_an_unknown_history_item_is_named_and_ignored(client):
    answer = ask(client, history=[*WAR, "no-such-film"], k=3)
    assert answer["unknown_history"] == ["no-such-film"]
    assert ids(answer) == ids(ask(client, history=WAR, k=3))


def test_similar_items(client):
    answer = client.get("/v1/items/film-war-01/similar", params={"k": 5}).json()
    assert len(answer["items"]) == 5
    assert all("-war-" in each for each in ids(answer))
    assert "film-war-01" not in ids(answer)
    books = client.get("/v1/items/film-war-01/similar", params={"item_type": "book"}).json()
    assert all(each.startswith("book-war-") for each in ids(books))


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"k": 0}, "/body/k"),
        ({"k": 10_000}, "/body/k"),
        ({"history": [""]}, "/body/history/0"),
        ({"user": "typo"}, "/body/user"),
        ({"user_id": 7}, "/body/user_id"),
    ],
)
def test_a_bad_request_is_a_problem_document_that_points_at_the_fault(client, body, pointer):
    response = client.post("/v1/recommendations", json=body)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["errors"][0]["pointer"] == pointer
    assert {"type", "title", "status", "detail", "instance"} <= set(problem)


def test_unknown_things_are_problem_documents(client):
    for response, status in (
        (client.post("/v1/recommendations", json={"item_types": ["song"]}), 422),
        (client.get("/v1/items/nope/similar"), 404),
        (client.get("/nowhere"), 404),
        (client.get("/v1/feedback"), 405),
    ):
        assert response.status_code == status
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == status


def test_the_openapi_document_has_examples_and_every_route(client):
    document = client.get("/openapi.json").json()
    assert document["components"]["schemas"]["RecommendationRequest"]["examples"]
    for path in ("/v1/recommendations", "/v1/feedback", "/v1/items/{item_id}/similar", "/readyz"):
        assert path in document["paths"]


def test_metrics_count_requests_by_route_template(client):
    ask(client, history=WAR)
    client.get("/v1/items/film-war-01/similar")
    text = client.get("/metrics").text
    assert 'errata_requests_total{route="/v1/recommendations",status="200"} 1.0' in text
    assert 'route="/v1/items/{item_id}/similar"' in text
    assert 'errata_stage_seconds_count{stage="search"} 1.0' in text
    assert "errata_model_info{" in text


def test_a_dismissed_item_stays_hidden_even_when_seen_items_are_wanted(client):
    for kind in ("click", "dismiss"):
        body = {"user_id": "u3", "item_id": "film-sea-07", "type": kind}
        assert client.post("/v1/feedback", json=body).json()["status"] == "applied"
    answer = ask(client, user_id="u3", k=200, exclude_seen=False)
    assert "film-sea-07" not in ids(answer)
    assert len(answer["items"]) == 119
    assert not answer["personalised"]  # the dismissal took the click back


def test_whoever_takes_what_was_dismissed_wants_it_again_whichever_came_first(client):
    asked = {"user_id": "u", "history": ["film-war-01"], "k": 120, "exclude_seen": False}

    def say(type, second):
        when = f"2026-01-01T00:00:{second:02}Z"
        body = {"user_id": "u", "item_id": "film-war-02", "type": type, "timestamp": when}
        assert client.post("/v1/feedback", json=body).is_success
        return "film-war-02" in ids(client.post("/v1/recommendations", json=asked).json())

    assert say("click", 30)
    assert say("dismiss", 20)  # came late
    assert not say("dismiss", 40)
    assert say("click", 50)


def test_late_feedback_does_not_become_the_newest(client):
    for item, when in (
        ("film-sea-01", "2024-05-02T00:00:00Z"),
        ("film-war-01", "2024-05-01T00:00:00Z"),
    ):
        body = {"user_id": "u4", "item_id": item, "timestamp": when}
        client.post("/v1/feedback", json=body)
    body = {"user_id": "u4", "item_id": "film-war-01", "type": "dismiss"}
    client.post("/v1/feedback", json=body | {"timestamp": "2024-04-30T00:00:00Z"})
    answer = ask(client, user_id="u4", k=20, explain=True)
    reasons = {reason["item_id"] for item in answer["items"] for reason in item["reasons"]}
    assert "film-war-01" in reasons  # liked after it was dismissed


@pytest.mark.parametrize(
    "when", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", "1950-01-01"]
)
def test_an_implausible_time_is_refused(client, when):
    body = {"user_id": "u", "item_id": "i", "timestamp": when}
    assert client.post("/v1/feedback", json=body).status_code == 422


def test_an_id_with_a_slash_is_found_or_named(client):
    response = client.get("/v1/items/folder%2F50/similar")
    assert response.status_code == 404
    assert "folder/50" in response.json()["detail"]


def test_a_flood_of_faults_is_answered_briefly(client):
    body = {f"unknown{number}": 1 for number in range(5_000)}
    response = client.post("/v1/recommendations", json=body)
    assert response.status_code == 422
    assert len(response.content) < 10_000


def test_features_are_a_description_and_no_store(client):
    body = {"history": ["film-war-00"], "features": {"diary": "x" * 8_000}}
    assert client.post("/v1/recommendations", json=body).status_code == 200
    body["features"]["more"] = "x" * 200
    refused = client.post("/v1/recommendations", json=body)
    assert refused.status_code == 422
    assert "8192 bytes" in refused.json()["detail"]
