import json
import time

import numpy as np
import pytest

from errata.cli.champion import KEPT
from errata.cli.main import run
from feature_store.editions.replaying import pack_case, pack_history
from feature_store.error_memory.drift import Alarm, DriftFlag
from feature_store.error_memory.events import EventLog, LabelledEvent
from feature_store.error_memory.hashing import source_id
from feature_store.error_memory.log import MemoryLog
from feature_store.offline import FeedbackLog, FeedbackRecord
from feature_store.registry import Registry
from tests.pipelines.traffic.conftest import write_captures

RECOMMENDER = [
    *("--set", "towers.epochs=1", "--set", "towers.dimension=8", "--set", "threads=1"),
    *("--set", "graph_network.enabled=false", "--set", "evaluation.baselines=[popularity]"),
]
TRAFFIC = [
    *("--set", "network.packets=8", "--set", "network.encoder.d_model=24", "--set", "threads=1"),
    *("--set", "network.encoder.layers=1", "--set", "network.epochs=1"),
    *("--set", "pretraining.enabled=false", "--set", "tree.rounds=10"),
    *("--set", "evaluation.resamples=5", "--set", "labels.least_flows=4"),
]


@pytest.fixture
def home(tmp_path, redis_server, redis_client, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    return tmp_path / "home"


@pytest.fixture
def tables(tmp_path):
    folder = tmp_path / "tables"
    folder.mkdir()
    rows = [f"u{n % 12},i{(n * n + 3 * n) % 97},{1_700_000_000 + n * 600}" for n in range(600)]
    text = "user_id,item_id,timestamp\n" + "\n".join(rows) + "\n"
    (folder / "interactions.csv").write_text(text)
    return folder


def command(capsys, *arguments):
    capsys.readouterr()
    code = run(["retrain", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def outcome(number, *, case, name, label, version="before", source="somebody"):
    return LabelledEvent(
        version=version,
        case=case,
        names=(name,),
        labels={name: label},
        ids={name: source_id(f"f{number}")},
        source=source_id(source),
        time_ms=int(time.time() * 1_000),
    )


def test_a_better_recommender_is_promoted_with_a_memory_of_its_own_and_another_is_not(
    home, tables, redis_client, capsys
):
    feedback = FeedbackLog(home / "offline" / "feedback")
    feedback.append(FeedbackRecord("f", "u1", "i3", "click", 1.0, 1_700_000_000_000, None, None))
    case = pack_case(pack_history([("i4", "click")]), {})
    log = EventLog(redis_client, model="recommender")
    for number, item in enumerate((0, 4, 10, 18, 28)):
        log.append(outcome(number, case=case, name=f"i{item}", label=float(number % 2)))
    data = ("recommender", "--data", tables)
    code, told = command(capsys, *data, *RECOMMENDER)
    assert (code, told["promoted"], told["champion"]) == (0, True, None)
    first = told["challenger_version"]
    assert told["rebased"] == 5
    assert MemoryLog(redis_client, model="recommender", version=first).position() == 5
    # The same again is not better for certain, with the settings of the champion. What a user said
    # who was cut out of its memory is left out.
    MemoryLog(redis_client, model="recommender", version=first).forget_source("u1")
    capsys.readouterr()
    code = run(["retrain", *map(str, data), "--set", "seed=1", "--json"])
    captured = capsys.readouterr()
    assert "0 outcomes were collected" in captured.err
    told = json.loads(captured.out)
    assert (code, told["promoted"]) == (KEPT, False)
    assert told["window"]["champion_saw_it"].startswith("no")
    assert told["low"] <= told["difference"] <= told["high"]
    registry = Registry(str(home / "registry"))
    assert registry.resolve("recommender", "champion") == first
    # A margin below 0 takes a version that is about as good.
    code, told = command(capsys, *data, "--rule", "mean", "--margin", "-1", "--set", "seed=1")
    assert (code, told["promoted"]) == (0, True)
    assert registry.resolve("recommender", "champion") == told["challenger_version"] != first


def test_without_an_alarm_nothing_is_trained_and_with_one_it_is_answered(
    home, tables, redis_client, capsys
):
    data = ("recommender", "--data", tables, "--if-drift")
    code, told = command(capsys, *data)
    assert (code, told["reason"]) == (KEPT, "no drift")
    assert command(capsys, *data, "--exit-zero")[0] == 0
    flag = DriftFlag(redis_client, model="recommender")
    flag.raise_("v1", Alarm(before=0.1, after=0.4, position=640))
    code, told = command(capsys, *data, *RECOMMENDER)
    assert (code, told["promoted"]) == (0, True)
    assert flag.read() is None


def test_what_was_promoted_and_alarmed_while_it_trained_stays(
    home, tables, redis_client, capsys, monkeypatch
):
    data = ("recommender", "--data", tables, *RECOMMENDER)
    _, told = command(capsys, *data)
    first, registry = told["challenger_version"], Registry(str(home / "registry"))
    flag, alarm = DriftFlag(redis_client, model="recommender"), Alarm(0.1, 0.4, 640)
    published = Registry.publish

    def meanwhile(self, model, *arguments, **keywords):
        manifest = published(self, model, *arguments, **keywords)
        registry.promote(model, manifest.version, alias="champion")  # an operator does
        flag.raise_(first, alarm)
        return manifest

    monkeypatch.setattr(Registry, "publish", meanwhile)
    code, told = command(capsys, *data, "--rule", "mean", "--margin", "-1", "--set", "seed=1")
    assert (code, told["promoted"]) == (KEPT, False)
    assert "became champion while" in told["reason"]
    assert flag.read()["position"] == 640


def test_what_was_labelled_online_trains_the_next_traffic_version(
    home, tmp_path, redis_client, capsys
):
    from feature_store.editions.traffic import TrafficEdition
    from feature_store.traffic.flows.packing import pack_flow
    from pipelines.traffic.dataset import read_labelled_flows
    from pipelines.traffic.labels import find_captures, find_labels

    captures = write_captures(tmp_path / "captures", recordings=3, flows=6)
    code, told = command(capsys, "traffic", "--data", captures, *TRAFFIC)
    assert (code, told["promoted"]) == (0, True)
    known = read_labelled_flows(find_captures(captures), find_labels(captures), root=captures)
    log = EventLog(redis_client, model="traffic")
    for row in range(len(known)):
        flow = known.flows[row : row + 1]
        name = f"{known.classes[known.label[row]]}-2"
        log.append(outcome(row, case=pack_flow(flow, 8), name="flow", label=name))
        log.append(
            outcome(-1 - row, case=pack_flow(flow, 8), name="flow", label="evil", source="x")
        )
    MemoryLog(redis_client, model="traffic", version=told["challenger_version"]).forget_source("x")
    # Without captures the flows alone, and of them what nobody took back.
    assert run(["retrain", "traffic"]) == 2
    assert "give captures that have them" in capsys.readouterr().err
    # Other classes than the champion's, so it must be better.
    code, told = command(capsys, "traffic", "--set", "seed=1", "--fewer-classes")
    assert (code, told["champion"]) == (0, 0.0)
    assert told["challenger"] > 0.3
    assert told["rebased"] == 2 * len(known)  # read again, and half of them left out
    version = told["challenger_version"]
    edition = TrafficEdition.load(Registry(str(home / "registry")).open("traffic", version)[0])
    assert edition.classes == tuple(f"{name}-2" for name in known.classes)
    entries = MemoryLog(redis_client, model="traffic", version=version).entries()
    assert np.concatenate([batch.labels for _, batch in entries])[:, :3].sum() == len(known)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["recommender", "--data", "/does/not/exist"], "/does/not/exist"),
        (["traffic"], "--data"),
        (["recommender", "--data", ".", "--rule", "guess"], "rule"),
    ],
)
def test_a_mistake_is_one_line(home, capsys, arguments, says):
    assert run(["retrain", *arguments]) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert "Traceback" not in shown
