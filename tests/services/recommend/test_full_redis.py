"""Redis runs full: predictions give way, and what users do is still taken."""

from contextlib import contextmanager

import pytest
from pydantic import ValidationError

from feature_store.error_memory.log import MemoryLog
from feature_store.online import connect
from services.recommend.settings import CatalogueSettings, Limits
from tests.services.recommend.conftest import publish, serving
from tests.services.recommend.test_degraded import ask, eventually, own_redis  # noqa: F401

BALLAST_BYTES = 20_000_000


@contextmanager
def nearly_full(redis):
    """Nine tenths of its memory are taken, by something that goes away."""
    redis.setrange("ballast", BALLAST_BYTES, "made by the server: nothing of it is in a buffer")
    redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] / 0.9))
    yield
    redis.delete("ballast")


def lost(client) -> float:
    lines = client.get("/metrics").text.splitlines()
    (line,) = (each for each in lines if each.startswith("errata_predictions_lost_total "))
    return float(line.split()[1])


def kept(redis) -> dict[str, list[bytes]]:
    return {
        kind: redis.keys(f"errata:default:{kind}:*") for kind in ("prediction", "served", "history")
    }


def test_predictions_give_way_to_feedback_and_come_back(
    registry,
    settings,
    tmp_path,
    own_redis,  # noqa: F811
    caplog,
):
    publish(registry, tmp_path / "staging")
    redis = connect(own_redis.url, timeout_s=5)
    with serving(settings(redis_url=own_redis.url)) as client:
        with nearly_full(redis):
            eventually(lambda: client.get("/readyz").json()["status"] == "degraded")
            ready = client.get("/readyz")
            assert ready.status_code == 200
            (reason,) = ready.json()["reasons"]
            assert "predictions are not kept" in reason
            before = ask(client, user_id="u", k=5)
            assert not before["degraded"]
            eventually(lambda: lost(client) == 1)
            assert kept(redis) == {"prediction": [], "served": [], "history": []}

            click = {"item_id": "film-love-01", "prediction_id": before["prediction_id"]}
            told = client.post("/v1/feedback", json=click | {"user_id": "u"}).json()
            assert (told["status"], told["known_prediction"]) == ("applied", False)
            after = ask(client, user_id="u", k=5)
            assert {each["item_id"].split("-")[1] for each in after["items"]} == {"love"}
            assert after["items"] != before["items"]
            assert not after["degraded"]
            eventually(lambda: lost(client) == 2)

        eventually(lambda: client.get("/readyz").json()["status"] == "ok")
        ask(client, user_id="u", k=5)
        eventually(lambda: kept(redis)["served"])
        assert [len(each) for each in kept(redis).values()] == [1, 1, 1]
        assert lost(client) == 2
    said = [each.message for each in caplog.records if "predictions are" in each.message]
    assert len(said) == 2
    assert said[0] == reason
    redis.close()


def test_the_memory_still_learns_while_predictions_give_way(
    registry,
    settings,
    tmp_path,
    own_redis,  # noqa: F811
):
    """Of what was served before."""
    version = publish(registry, tmp_path / "staging")
    redis = connect(own_redis.url, timeout_s=5)
    log = MemoryLog(redis, model="recommender", version=version)
    with serving(settings(redis_url=own_redis.url)) as client:
        answer = ask(client, user_id="u", k=5)
        eventually(lambda: kept(redis)["served"])
        with nearly_full(redis):
            eventually(lambda: client.get("/readyz").json()["status"] == "degraded")
            click = {"item_id": answer["items"][0]["item_id"], "user_id": "u"}
            click["prediction_id"] = answer["prediction_id"]
            assert client.post("/v1/feedback", json=click).json()["known_prediction"]
            assert log.position() == 1
    redis.close()


def test_predictions_wait_for_as_long_as_is_set(
    registry,
    settings,
    tmp_path,
    redis_client,
):
    publish(registry, tmp_path / "staging")
    limits = Limits(deadline_ms=20_000, prediction_ttl_s=5_000)
    with serving(settings(limits=limits)) as client:
        ask(client, user_id="u", k=5)
        eventually(lambda: kept(redis_client)["served"])
        for kind in ("prediction", "served"):
            (key,) = kept(redis_client)[kind]
            assert 4_900 < redis_client.ttl(key) <= 5_000


def test_a_window_that_outlasts_the_predictions_is_refused(settings):
    limits = Limits(prediction_ttl_s=600)
    with pytest.raises(ValidationError, match=r"'default' is 1800.*prediction_ttl_s = 600"):
        settings(limits=limits)
    short = CatalogueSettings(exposure_window_s=300)
    assert settings(limits=limits, catalogues={"default": short}).limits.prediction_ttl_s == 600
