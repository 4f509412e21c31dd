import tempfile
from pathlib import Path

import pytest

from feature_store.online import EmbeddedRedis
from tests.patience import within

from .conftest import make_edition, publish, serving

eventually = within(20)


@pytest.fixture
def own_redis():
    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        server = EmbeddedRedis(Path(directory)).start()
        yield server
        server.stop()


def ask(client, **body):
    response = client.post("/v1/recommendations", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_answers_and_feedback_outlive_redis(registry, settings, tmp_path, own_redis):
    publish(registry, tmp_path / "staging")
    with serving(settings(redis_url=own_redis.url)) as client:
        client.post("/v1/feedback", json={"user_id": "u", "item_id": "film-sea-01"})
        healthy = ask(client, user_id="u", k=5)

        own_redis.stop()
        lonely = ask(client, user_id="u", k=5)
        assert lonely["degraded"]
        assert "redis" in lonely["degraded_reasons"][0]
        assert lonely["items"] == healthy["items"]  # from what was last known of the user
        assert ask(client, user_id="never seen", k=5)["degraded"]
        click = {"user_id": "u", "item_id": "film-love-01", "feedback_id": "f"}
        stored = client.post("/v1/feedback", json=click).json()
        assert (stored["status"], stored["degraded"]) == ("stored", True)
        eventually(lambda: client.get("/readyz").json()["status"] == "degraded")
        assert client.get("/readyz").status_code == 200

        own_redis.start()
        eventually(lambda: client.get("/readyz").json()["status"] == "ok")
        assert client.post("/v1/feedback", json=click).json()["status"] == "duplicate"
        recovered = ask(client, user_id="u", k=10)
        assert not recovered["degraded"]
        assert {each["item_id"].split("-")[1] for each in recovered["items"]} == {"sea", "love"}


def test_a_corrupt_champion_is_refused_and_the_last_good_version_serves(
    registry, settings, tmp_path
):
    good = publish(registry, tmp_path / "one")
    bad = publish(registry, tmp_path / "two", seed=1)
    directory, _ = registry.open("recommender", bad)
    with (directory / "index.faiss").open("r+b") as file:
        file.write(b"rot")
    with serving(settings()) as client:
        answer = ask(client, k=1)
        assert answer["model_version"] == good
        assert answer["degraded"]
        assert "index.faiss" in answer["degraded_reasons"][0]
        assert client.get("/readyz").json()["status"] == "degraded"


def test_a_promoted_version_takes_over_and_a_corrupt_one_does_not(registry, settings, tmp_path):
    first = publish(registry, tmp_path / "one")
    with serving(settings()) as client:
        assert ask(client, k=1)["model_version"] == first
        second = publish(registry, tmp_path / "two", seed=1)
        eventually(lambda: ask(client, k=1)["model_version"] == second)
        serving_now = [
            v["version"] for v in client.get("/v1/models").json()["versions"] if v["serving"]
        ]
        assert serving_now == [second]


def test_a_user_who_wants_nothing_does_not_keep_a_version_from_serving(
    registry, settings, tmp_path
):
    edition = make_edition(per_genre=2)
    publish(registry, tmp_path / "one", edition=edition)
    with serving(settings()) as client:
        for item_id in edition.catalogue.item_ids:
            refused = {"user_id": "u", "item_id": item_id, "type": "dismiss"}
            assert client.post("/v1/feedback", json=refused).status_code == 200
        assert ask(client, user_id="u", exclude_seen=False)["items"] == []
        new = publish(registry, tmp_path / "two", edition=make_edition(1, per_genre=2))
        eventually(lambda: client.get("/healthz").json()["model_version"] == new)


def test_without_a_model_the_service_is_alive_and_says_what_to_do(settings):
    with serving(settings()) as client:
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["status"] == "unavailable"
        refused = client.post("/v1/recommendations", json={})
        assert refused.status_code == 503
        assert "errata train recommender" in refused.json()["detail"]


def test_a_broken_alias_does_not_end_the_watch_for_promotions(registry, settings, tmp_path):
    publish(registry, tmp_path / "one")
    (alias,) = (tmp_path / "registry").glob("**/champion.json")
    with serving(settings()) as client:
        kept = alias.read_text()
        alias.write_text("")
        eventually(lambda: client.get("/v1/models").json()["versions"][0]["aliases"] == [])
        assert client.get("/readyz").status_code == 200
        alias.write_text(kept)
        second = publish(registry, tmp_path / "two", seed=1)
        eventually(lambda: ask(client, k=1)["model_version"] == second)


def test_a_torn_spool_does_not_keep_the_service_from_starting(registry, settings, tmp_path):
    publish(registry, tmp_path / "one")
    (tmp_path / "offline").mkdir()
    (tmp_path / "offline" / "spool.jsonl").write_text('{"feedback_id":"f1","us')
    with serving(settings()) as client:
        assert client.get("/readyz").json()["status"] == "ok"
        body = {"user_id": "u", "item_id": "film-sea-01"}
        assert client.post("/v1/feedback", json=body).json()["status"] == "applied"
