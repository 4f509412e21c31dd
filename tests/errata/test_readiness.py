"""What a service waits for before it says that it is ready."""
# ruff: noqa: F401, F811 (fixtures of another room)

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from errata.application import application
from feature_store.registry import Registry
from services.classify.settings import ClassifySettings, Watch
from services.recommend.settings import CatalogueSettings
from tests.patience import within
from tests.services.classify.conftest import mixed, served
from tests.services.classify.conftest import publish as publish_traffic
from tests.services.conftest import traffic, trained
from tests.services.recommend.conftest import publish as publish_recommender
from tests.services.recommend.conftest import registry, serving, settings

eventually = within(30)
Service = Callable[..., AbstractContextManager[httpx.Client]]


@pytest.fixture
def service(settings, caplog) -> Service:
    """The whole application; `watch` is the live source's, all else the recommender's settings."""
    caplog.set_level(logging.INFO)

    def build(*, watch: Watch | None = None, **changes) -> AbstractContextManager[httpx.Client]:
        chosen = settings(**changes)
        classifying = ClassifySettings(
            registry=chosen.registry,
            redis_url=chosen.redis_url,
            alias=chosen.alias,
            watch=watch,
            refresh_s=0.05,
        )
        return serving(chosen, functools.partial(application, traffic=classifying))

    return build


@pytest.fixture
def version(registry, served, tmp_path) -> str:
    return publish_traffic(registry, served.edition, tmp_path / "staging-traffic")


def ready(client: httpx.Client) -> tuple[int, str, list[str]]:
    answer = client.get("/readyz")
    return answer.status_code, answer.json()["status"], answer.json()["reasons"]


def said(caplog, level: int) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno == level]


def damage(registry_root: Path, model: str, version: str) -> None:
    files = (registry_root / model / "versions" / version).rglob("*")
    next(each for each in files if each.is_file() and each.name != "manifest.json").write_bytes(b"")


def test_traffic_alone_is_ready_and_a_recommender_that_comes_is_taken_up(
    registry, service, version, mixed, tmp_path, caplog
) -> None:
    with service() as client:
        assert ready(client) == (200, "ok", [])
        assert client.get("/readyz").json()["model_version"] == version
        assert client.post("/v1/classify", content=mixed.read_bytes()).json()["flows"] == 36
        assert client.post("/v1/recommendations", json={}).status_code == 503
        eventually(lambda: client.get("/metrics").text.count("errata_traffic_model_error{"))
        assert said(caplog, logging.ERROR) == []
        assert len([each for each in said(caplog, logging.INFO) if "recommender" in each]) == 1
        unpromoted = registry.publish(
            "recommender",
            tmp_path / "staging-traffic",
            data_fingerprint="test",
            code_version="test",
            config={},
            metrics={},
        )
        eventually(
            lambda: client.get("/v1/models").json()["versions"][0]["version"] == unpromoted.version
        )
        assert ready(client) == (200, "ok", [])  # nobody promoted it
        new = publish_recommender(registry, tmp_path / "recommender")
        eventually(lambda: client.post("/v1/recommendations", json={}).is_success)
        assert client.get("/readyz").json() == {
            "status": "ok",
            "model_version": new,
            "reasons": [],
        }
        assert said(caplog, logging.ERROR) == []


def test_a_recommender_alone_is_ready_and_a_traffic_model_that_comes_is_taken_up(
    registry, service, served, mixed, tmp_path, caplog
) -> None:
    champion = publish_recommender(registry, tmp_path / "recommender")
    with service() as client:
        assert ready(client) == (200, "ok", [])
        assert client.post("/v1/classify", content=mixed.read_bytes()).status_code == 503
        assert said(caplog, logging.ERROR) == []
        assert len([each for each in said(caplog, logging.INFO) if "traffic" in each]) == 1
        publish_traffic(registry, served.edition, tmp_path / "staging-traffic")
        capture = mixed.read_bytes()
        eventually(lambda: client.post("/v1/classify", content=capture).is_success)
        assert client.get("/readyz").json()["model_version"] == champion


def test_with_nothing_it_says_what_of_both_is_missing_until_one_comes(
    registry, service, served, tmp_path, caplog
) -> None:
    with service() as client:
        status, _, reasons = ready(client)
        assert status == 503
        assert [each.split(":")[0] for each in reasons] == ["default", "traffic"]
        assert len(said(caplog, logging.ERROR)) == 2
        publish_traffic(registry, served.edition, tmp_path / "staging-traffic")
        eventually(lambda: ready(client) == (200, "ok", []))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "shop"}, "model 'shop' has no version or alias 'champion'"),
        ({"model": "recommender"}, "model 'recommender' has no version or alias 'champion'"),
        ({"catalogues": {"books": CatalogueSettings(model="books")}}, "books: model 'books' has"),
    ],
)
def test_what_the_settings_name_is_waited_for(service, version, changes, reason: str) -> None:
    with service(**changes) as client:
        status, _, reasons = ready(client)
        assert status == 503
        assert len(reasons) == 1
        assert reason in reasons[0]


def test_an_alias_is_waited_for_wherever_there_is_a_champion(
    registry, service, version, tmp_path
) -> None:
    registry.promote("traffic", version, alias="stable")
    with service(alias="stable") as client:
        assert ready(client) == (200, "ok", [])
        champion = publish_recommender(registry, tmp_path / "recommender")
        eventually(lambda: ready(client)[0] == 503)
        assert (
            "default: model 'recommender' has no version or alias 'stable'" in ready(client)[2][0]
        )
        registry.promote("recommender", champion, alias="stable")
        eventually(lambda: ready(client) == (200, "ok", []))


@pytest.mark.parametrize("corrupt", ["recommender", "traffic"])
def test_a_corrupt_champion_is_waited_for(
    registry, service, version, tmp_path, caplog, corrupt: str
) -> None:
    recommender = publish_recommender(registry, tmp_path / "recommender")
    broken = {"recommender": recommender, "traffic": version}[corrupt]
    damage(tmp_path / "registry", corrupt, broken)
    with service() as client:
        status, _, reasons = ready(client)
        assert status == 503
        assert len(reasons) == 1
        assert broken in reasons[0]
        assert len([each for each in said(caplog, logging.ERROR) if broken in each]) == 1


def test_where_the_champion_of_traffic_is_corrupt_the_one_before_it_serves(
    registry, service, version, served, mixed, tmp_path
) -> None:
    broken = publish_traffic(registry, served.edition, tmp_path / "staging-traffic")
    damage(tmp_path / "registry", "traffic", broken)
    with service() as client:
        status, name, reasons = ready(client)
        assert (status, name, len(reasons)) == (200, "degraded", 1)
        assert broken in reasons[0]
        assert version in reasons[0]
        answer = client.post("/v1/classify", content=mixed.read_bytes()).json()
        assert (answer["model_version"], answer["flows"]) == (version, 36)
        publish_traffic(registry, served.edition, tmp_path / "staging-traffic")
        eventually(lambda: ready(client) == (200, "ok", []))


def test_a_live_source_waits_for_its_model(registry, service, mixed, tmp_path) -> None:
    publish_recommender(registry, tmp_path / "recommender")
    with service(watch=Watch(capture=mixed)) as client:
        status, _, reasons = ready(client)
        assert status == 503
        assert reasons[0].startswith("traffic: ")
