import httpx
import pytest

from feature_store.online import EmbeddedRedis


def names(found: httpx.Response) -> list[str]:
    return [item["title"] for item in found.raise_for_status().json()["items"]]


def test_titles_are_found_by_their_words_in_any_order_and_case(client: httpx.Client):
    found = names(client.get("/v1/items", params={"q": "FILM sea", "k": 100}))
    assert found
    assert all(title.startswith("sea film") for title in found)
    assert names(client.get("/v1/items", params={"q": "nothing like it"})) == []


def test_a_title_that_begins_with_the_query_comes_first(client: httpx.Client):
    assert names(client.get("/v1/items", params={"q": "love book 1"}))[0] == "love book 1"


def test_an_item_is_found_by_its_id(client: httpx.Client):
    found = client.get("/v1/items", params={"q": "film-war-03"}).json()["items"]
    assert found[0] == {"item_id": "film-war-03", "item_type": "film", "title": "war film 3"}


def test_no_words_find_what_is_popular(client: httpx.Client):
    popular = client.post("/v1/recommendations", json={"k": 5}).json()["items"]
    assert names(client.get("/v1/items", params={"k": 5})) == [each["title"] for each in popular]


def test_an_added_item_is_found(client: httpx.Client):
    added = {"item_type": "film", "title": "A brand new one", "like": ["film-sea-01"]}
    client.put("/v1/items/new", json=added).raise_for_status()
    for _ in range(200):
        if names(client.get("/v1/items", params={"q": "brand"})) == ["A brand new one"]:
            return
    pytest.fail("the added item was not found")


def test_a_user_is_found_with_what_they_did_and_do_not_want(client: httpx.Client):
    for item, kind in (("film-war-01", "click"), ("book-sea-02", "dismiss")):
        body = {"user_id": "ann/1", "item_id": item, "type": kind}
        client.post("/v1/feedback", json=body).raise_for_status()
    assert client.get("/v1/users").json() == {"users": ["ann/1"], "degraded": False}
    known = client.get("/v1/users/ann%2F1/history").raise_for_status().json()
    assert [(e["title"], e["type"]) for e in known["events"]] == [
        ("sea book 2", "dismiss"),
        ("war film 1", "click"),
    ]
    assert [each["item_id"] for each in known["hidden"]] == ["book-sea-02"]


def test_the_map_has_every_item_and_places_those_that_are_named(client: httpx.Client):
    whole = client.get("/v1/map").raise_for_status().json()
    assert len(whole["item_ids"]) == len(whole["xy"]) == 120
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in whole["xy"])
    for item_id, kind in zip(whole["item_ids"], whole["kinds"], strict=True):
        assert kind == -1 or whole["places"][kind]["name"] in item_id
    named = client.get("/v1/map", params={"item_id": ["film-war-01", "unheard of"]}).json()
    assert named["item_ids"] == ["film-war-01"]
    assert named["places"] == []


def test_without_redis_users_are_missing_and_the_answer_says_so(
    registry, settings, tmp_path, redis_server
):
    from tests.services.recommend.conftest import publish, serving

    publish(registry, tmp_path / "staging")
    with EmbeddedRedis(tmp_path) as server:
        url = server.url
    with serving(settings(redis_url=url)) as client:
        assert client.get("/v1/users").json() == {"users": [], "degraded": True}
        assert client.get("/v1/users/ann/history").json()["degraded"] is True
