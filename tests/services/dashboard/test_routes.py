"""What the page asks of the service beside recommendations and verdicts."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.patience import within

eventually = within(20)


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_a_version_is_promoted_serves_and_is_rolled_back(client: httpx.Client):
    versions = client.get("/v1/models/recommender").json()["versions"]
    first, second = (each["version"] for each in versions)
    moved = client.post("/v1/models/recommender/promote", json={"version": first}).json()
    assert moved == {
        "model": "recommender",
        "alias": "champion",
        "before": second,
        "version": first,
    }
    eventually(lambda: client.get("/readyz").json()["model_version"] == first)
    back = client.post("/v1/models/recommender/rollback", json={}).json()
    assert (back["before"], back["version"]) == (first, second)
    eventually(lambda: client.get("/readyz").json()["model_version"] == second)


def test_what_cannot_be_moved_is_refused_with_the_reason(client: httpx.Client):
    unknown = client.post("/v1/models/recommender/promote", json={"version": "nothing"})
    assert unknown.status_code == 404
    assert "no version or alias 'nothing'" in unknown.json()["detail"]
    nowhere = client.post("/v1/models/traffic/rollback", json={})
    assert nowhere.status_code == 404
    assert "no earlier version" in nowhere.json()["detail"]
    page = client.post(
        "/v1/models/recommender/rollback",
        content=b"{}",
        headers={"content-type": "text/plain"},  # all that a page of another host may send
    )
    assert page.status_code == 422


def test_labels_are_entries_that_can_be_seen_and_forgotten(client: httpx.Client, capture: Path):
    found = client.post("/v1/classify", content=capture.read_bytes()).json()["verdicts"]
    chosen = [each for each in found if each["label"] == "chat"][:2]
    for verdict, source in zip(chosen, ("ann", "bob"), strict=True):
        label = {"prediction_id": verdict["prediction_id"], "label": "lookup", "source": source}
        assert client.post("/v1/labels", json=label).json()["learned"] == 1

    def entries() -> list[dict]:
        found: list[dict] = client.get("/v1/memory/traffic/entries").json()["entries"]
        return found

    eventually(lambda: len(entries()) >= 2)
    mine = [
        each for each in entries() if (each["predicted"], each["outcome"]) == ("chat", "lookup")
    ]
    assert len({each["source"] for each in mine}) == 2
    before = len(entries())
    cut = {"feedback": mine[0]["feedback"]}
    assert client.post("/v1/memory/traffic/forget", json=cut).json()["decision"] == "cut"
    eventually(lambda: len(entries()) == before - 1)
    source = {"source": mine[1]["source"]}
    assert client.post("/v1/memory/traffic/forget", json=source).json()["decision"] == "forget"
    eventually(lambda: mine[1]["source"] not in {each["source"] for each in entries()})
    assert client.post("/v1/memory/traffic/forget", json=source | cut).status_code == 422
    assert client.get("/v1/memory/nothing/entries").status_code == 404

    course = client.get("/v1/memory/traffic/course").raise_for_status().json()
    assert sum(point["outcomes"] for point in course["points"]) >= 2


def test_neighbours_of_a_flow_are_of_its_kind_and_follow_a_label(
    client: httpx.Client, capture: Path
):
    found = client.post("/v1/classify", content=capture.read_bytes()).json()["verdicts"]
    video = [each for each in found if each["label"] == "video"]

    def near() -> list[dict]:
        path = f"/v1/verdicts/{video[0]['prediction_id']}/neighbours"
        flows: list[dict] = client.get(path).raise_for_status().json()["flows"]
        return flows

    flows = near()
    assert flows[0]["verdict"]["prediction_id"] == video[0]["prediction_id"]
    assert {each["verdict"]["label"] for each in flows} == {"video"}
    assert flows[1]["similarity"] >= flows[-1]["similarity"] > 0.9
    before = flows[-1]["confidence"]
    for flow in flows[:6]:
        name = flow["verdict"]["prediction_id"]
        label = {"prediction_id": name, "label": "stream", "source": "test-near"}
        client.post("/v1/labels", json=label).raise_for_status()
    eventually(lambda: {each["label"] for each in near()[:6]} == {"stream"})
    assert near()[-1]["confidence"] != before  # also one that nobody labelled
    client.post("/v1/memory/traffic/forget", json={"source_name": "test-near"}).raise_for_status()
    eventually(lambda: {each["label"] for each in near()} == {"video"})
    assert client.get("/v1/verdicts/unheard-of/neighbours").status_code == 404


def test_a_memory_is_switched_off_and_on(client: httpx.Client):
    def enabled() -> bool:
        found = client.get("/v1/memory").json()["memories"]
        return next(bool(each["enabled"]) for each in found if each["model"] == "traffic")

    for wanted in (False, True):
        body = {"enabled": wanted}
        client.post("/v1/memory/traffic/switch", json=body).raise_for_status()
        eventually(lambda wanted=wanted: enabled() is wanted)


def test_metrics_say_what_is_unknown_remembered_and_calibrated(client: httpx.Client, capture: Path):
    def value(name: str, **labels: str) -> float:
        return sum(
            sample.value
            for family in text_string_to_metric_families(client.get("/metrics").text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    before = value("errata_labelled_flows_total")
    flows = value("errata_flows_total")
    found = client.post("/v1/classify", content=capture.read_bytes()).json()["verdicts"]
    unknown = sum(each["label"] == "unknown" for each in found)
    assert value("errata_flows_total") == flows + len(found)
    assert value("errata_flows_total", answer="unknown") >= unknown
    verdict = next(each for each in found if each["label"] == "chat")
    label = {"prediction_id": verdict["prediction_id"], "label": "lookup", "source": "metrics"}
    assert client.post("/v1/labels", json=label).json()["learned"] == 1
    assert value("errata_labelled_flows_total") == before + 1
    eventually(lambda: value("errata_memory_entries", model="traffic") >= 1)
    grown = value("errata_memory_last_entry_timestamp_seconds", model="traffic")
    assert abs(time.time() - grown) < 30
    assert value("errata_memory_frozen") == 0
    client.post("/v1/memory/traffic/forget", json={"source_name": "metrics"})
