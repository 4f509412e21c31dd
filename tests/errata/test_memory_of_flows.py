"""`errata memory --model traffic` beside the service that learned it, through a real Redis."""
# ruff: noqa: F401, F811 (fixtures of another room)

import functools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from errata.application import application
from errata.cli.main import run
from feature_store.editions.traffic import TrafficEdition
from feature_store.error_memory.hashing import source_id
from feature_store.registry import Registry
from services.classify.settings import ClassifySettings
from services.recommend.settings import ServeSettings
from tests.patience import within
from tests.services.classify.conftest import deciding, publish, write_mixed
from tests.services.conftest import traffic, trained
from tests.services.recommend.conftest import serving

eventually = within(30)
FLOWS = 12  # of each application


@dataclass(frozen=True)
class Taught:
    """A service that learned that all its lookups are a game's.

    Attributes:
        verdicts: before it learned: those that were labelled, and the others.
    """

    client: httpx.Client
    home: Path
    labelled: list[dict[str, Any]]
    others: list[dict[str, Any]]

    def memory(self) -> dict[str, Any]:
        (found,) = self.client.get("/v1/memory").json()["memories"]
        return dict(found)


@pytest.fixture
def taught(
    tmp_path: Path, redis_server, redis_client, monkeypatch, trained: TrafficEdition
) -> Iterator[Taught]:
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path))
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    registry = str(tmp_path / "registry")
    publish(Registry(registry), deciding(trained, early_exit=1.0), tmp_path / "staging")
    of_traffic = ClassifySettings(
        registry=registry, redis_url=redis_server.url, labels=tmp_path / "offline" / "labels"
    )
    of_shop = ServeSettings(
        registry=registry,
        redis_url=redis_server.url,
        offline=tmp_path / "offline",
        device="cpu",
        refresh_s=0.05,
    )
    capture = write_mixed(tmp_path / "mixed.pcap", flows=FLOWS, seed=7)
    with serving(of_shop, functools.partial(application, traffic=of_traffic)) as client:
        found = client.post("/v1/classify", content=capture.read_bytes()).json()["verdicts"]
        labelled = [each for each in found if each["protocol"] == "udp"]
        others = [each for each in found if each["protocol"] != "udp"]
        for verdict in labelled:
            label = {
                "prediction_id": verdict["prediction_id"],
                "label": "new-game",
                "source": "analyst-7",
            }
            assert client.post("/v1/labels", json=label).json()["learned"] == 1
        service = Taught(client, tmp_path, labelled, others)
        eventually(lambda: service.memory()["written"] == len(labelled))
        yield service


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    """What a command prints as JSON."""
    capsys.readouterr()
    assert run(["memory", *arguments, "--model", "traffic", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_stats_say_what_the_service_says(taught: Taught, capsys) -> None:
    running = taught.memory()
    facts = said(capsys, "stats")
    assert facts["position"] == facts["written"] == len(taught.labelled)
    assert facts["weights"]["base"] < 1.0
    assert facts["reads"] > 0
    assert facts["entries"] > 0
    for name in set(running) & set(facts) - {"reads", "hits"}:
        assert facts[name] == running[name], name


def test_stats_follow_a_decision_as_the_service_does(taught: Taught, capsys) -> None:
    for name in ("off", "on"):
        assert run(["memory", name, "--model", "traffic"]) == 0
        eventually(lambda name=name: taught.memory()["enabled"] is (name == "on"))
        assert said(capsys, "stats")["enabled"] is (name == "on")


def test_tail_names_what_entries_are_about_a_line_each(taught: Taught, capsys) -> None:
    rows = said(capsys, "tail", "-n", "3")
    for row, verdict in zip(rows, taught.labelled[-3:], strict=True):
        assert row["prediction_id"] == verdict["prediction_id"]
        assert (row["outcome"], row["source_name"]) == ("new-game", "analyst-7")
        assert row["predicted"] == verdict["guess"]
        assert row["probability"] == pytest.approx(max(row["prediction"]), abs=1e-4)
        # The flow's time is the capture's, and the label came now.
        assert datetime.fromisoformat(row["time"]).timestamp() == int(verdict["time"])
        assert abs(datetime.fromisoformat(row["labelled"]).timestamp() - time.time()) < 600
        assert len(row["label"]) == len(row["error"]) == len(row["prediction"])
    assert run(["memory", "tail", "-n", "3", "--model", "traffic"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "flow's time" in head
    assert [("new-game" in line, "analyst-7" in line) for line in lines] == [(True, True)] * 3

    # Where the log of labels is not, the source is known by its hash, until it is decided about.
    (taught.home / "offline" / "labels").rename(taught.home / "elsewhere")
    assert said(capsys, "tail")[0]["source_name"] is None
    assert run(["memory", "tail", "-n", "1", "--model", "traffic"]) == 0
    assert f"{source_id('analyst-7'):016x}" in capsys.readouterr().out
    assert run(["memory", "forget", "--where", "source=analyst-7", "--model", "traffic"]) == 0
    assert said(capsys, "tail")[0]["source_name"] == "analyst-7"


def test_explain_says_what_the_service_says_of_a_flow_and_what_moves_it(
    taught: Taught, capsys
) -> None:
    for verdict in (taught.labelled[0], taught.others[0]):
        prediction_id = verdict["prediction_id"]
        path = f"/v1/verdicts/{prediction_id}/neighbours"
        now = taught.client.get(path, params={"k": 1}).json()["flows"][0]
        facts = said(capsys, "explain", prediction_id)
        assert facts["verdict"]["label"] == verdict["label"]
        assert facts["now"]["label"] == now["label"]
        assert facts["now"]["confidence"] == pytest.approx(now["confidence"], abs=1e-5)
        assert facts["version"] == verdict["model_version"]
        # Nothing was remembered when it was answered.
        assert facts["model"]["label"] == verdict["label"]
    facts = said(capsys, "explain", taught.labelled[0]["prediction_id"])
    assert facts["now"]["guess"] == "new-game" != facts["model"]["guess"]
    loudest = facts["entries"][0]
    assert (loudest["outcome"], loudest["source_name"]) == ("new-game", "analyst-7")
    influences = [each["influence"] for each in facts["entries"]]
    assert influences == sorted(influences, reverse=True)
    command = ["memory", "explain", taught.labelled[0]["prediction_id"], "--model", "traffic"]
    capsys.readouterr()
    assert run(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("with the memory as it is now" in line and "new-game" in line for line in lines)
    assert any("analyst-7" in line and "new-game" in line for line in lines)


def test_a_verdict_that_is_not_kept_or_of_another_version_is_one_line(
    taught: Taught, trained: TrafficEdition, tmp_path: Path, capsys
) -> None:
    assert run(["memory", "explain", "never-was", "--model", "traffic"]) == 2
    assert "no final verdict 'never-was' is kept" in " ".join(capsys.readouterr().err.split())
    registry = Registry(str(taught.home / "registry"))
    first = taught.labelled[0]
    publish(registry, trained, tmp_path / "second")
    assert run(["memory", "explain", first["prediction_id"], "--model", "traffic"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"give --version {first['model_version']}" in told


def test_forgetting_says_how_many_entries_it_meets(taught: Taught, capsys) -> None:
    def told(source: str) -> str:
        capsys.readouterr()
        assert run(["memory", "forget", "--where", f"source={source}", "--model", "traffic"]) == 0
        return str(capsys.readouterr().out)

    assert "'nobody': 0 entries are affected" in told("nobody")
    assert taught.memory()["entries"] > 0
    assert f"its {len(taught.labelled)} entries" in told("analyst-7")
    eventually(lambda: taught.memory()["entries"] == 0)
    assert said(capsys, "stats")["entries"] == 0
