"""Two replicas that share a Redis: whoever is asked knows what the other one saw."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from feature_store.online import EmbeddedRedis
from feature_store.registry import Registry
from services.classify.settings import ClassifySettings
from services.classify.stream import ServedEdition
from tests.patience import within
from tests.services.classify.conftest import publish, write_mixed
from tests.services.classify.test_app import serving

eventually = within(20)


@pytest.fixture(scope="module")
def settings(
    tmp_path_factory: pytest.TempPathFactory, redis_server: EmbeddedRedis, served: ServedEdition
) -> ClassifySettings:
    home = tmp_path_factory.mktemp("replicas")
    publish(Registry(home / "registry"), served.edition, home / "staging")
    return ClassifySettings(
        registry=str(home / "registry"), redis_url=redis_server.url, tenant="replicas"
    )


@pytest.fixture(scope="module")
def replicas(settings: ClassifySettings) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    with serving(settings) as one, serving(settings) as other:
        yield one, other


def classified(client: httpx.Client, capture: Path) -> list[dict]:
    answer = client.post("/v1/classify", content=capture.read_bytes()).raise_for_status()
    verdicts: list[dict] = answer.json()["verdicts"]
    return verdicts


def near(client: httpx.Client, verdict: dict) -> list[dict]:
    path = f"/v1/verdicts/{verdict['prediction_id']}/neighbours"
    flows: list[dict] = client.get(path).raise_for_status().json()["flows"]
    return flows


def test_a_flow_is_known_to_the_replica_that_did_not_classify_it(replicas, mixed: Path) -> None:
    one, other = replicas
    verdicts = classified(one, mixed) + classified(other, mixed)
    for verdict in (verdicts[0], verdicts[-1]):
        here, there = near(one, verdict), near(other, verdict)
        assert here[0]["verdict"] == verdict
        assert here == there
        # As many of the one's as of the other's: both captures are the same.
        ids = [each["verdict"]["prediction_id"] for each in here]
        assert len(set(ids)) == 13


def test_a_label_given_to_one_changes_how_the_other_reads_a_flow(replicas, mixed: Path) -> None:
    one, other = replicas
    verdict = next(each for each in classified(one, mixed) if each["label"] == "video")
    before = near(other, verdict)[0]
    label = {"prediction_id": verdict["prediction_id"], "label": "chat", "source": "replicas"}
    assert one.post("/v1/labels", json=label).json()["learned"] == 1
    eventually(lambda: near(other, verdict)[0]["confidence"] != before["confidence"])


def test_who_listens_to_one_hears_each_verdict_of_the_other_once(
    replicas, tmp_path: Path, mixed: Path
) -> None:
    one, other = replicas
    with one.stream("GET", "/v1/verdicts?final=true") as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith(": no live source here")
        # From here on nothing is missed.
        said = classified(other, mixed) + classified(one, mixed)
        last = write_mixed(tmp_path / "last.pcap", flows=1, seed=8)
        ends = {each["prediction_id"] for each in classified(other, last)}
        heard = []
        while not ends <= {each["prediction_id"] for each in heard}:
            line = next(lines)
            if line.startswith("data: "):
                heard.append(json.loads(line.removeprefix("data: ")))
    wanted = {each["prediction_id"]: each for each in said}
    of_these = [each for each in heard if each["prediction_id"] in wanted]
    assert len(of_these) == len(wanted) == 72
    assert all(each == wanted[each["prediction_id"]] for each in of_these)


def test_without_redis_a_replica_knows_and_tells_what_it_saw_itself(
    settings: ClassifySettings, tmp_path: Path, mixed: Path
) -> None:
    with EmbeddedRedis(tmp_path) as store:
        alone = settings.model_copy(update={"redis_url": store.url})
        with serving(alone) as client:
            verdict = classified(client, mixed)[0]
            store.stop()
            with client.stream("GET", "/v1/verdicts?final=true") as stream:
                lines = stream.iter_lines()
                next(lines)
                assert len(classified(client, mixed)) == 36
                assert sum(line.startswith("data: ") for line in _taken(lines, 36)) == 36
            assert near(client, verdict)[0]["verdict"] == verdict


def _taken(lines: Iterator[str], count: int) -> Iterator[str]:
    """So many events."""
    while count:
        line = next(lines)
        count -= line.startswith("data: ")
        yield line
