import json

import numpy as np
import pytest

from errata.cli.main import run
from feature_store.error_memory import ErrorBatch
from feature_store.error_memory.hashing import source_id
from feature_store.error_memory.log import MemoryLog
from feature_store.registry import Registry


@pytest.fixture
def log(tmp_path, redis_server, redis_client, monkeypatch):
    """An ERRATA_HOME whose champion has forty entries of two sources."""
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path))
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    staging = tmp_path / "staging"
    staging.mkdir()
    (staging / "weights").write_text("none")
    registry = Registry(str(tmp_path / "registry"))
    version = registry.publish(
        "recommender", staging, data_fingerprint="t", code_version="t", config={}, metrics={}
    ).version
    registry.promote("recommender", version, alias="champion")
    log = MemoryLog(redis_client, model="recommender", version=version)
    rng = np.random.default_rng(0)
    for source in ("honest", "mallory"):
        log.append(
            ErrorBatch.of(
                rng.standard_normal((20, 48)),
                np.ones((20, 1), np.float32),
                np.full((20, 1), 0.25, np.float32),
                sources=np.full(20, source_id(source), np.uint64),
            )
        )
    return log


def command(capsys, *arguments):
    code = run(["memory", *arguments])
    return code, capsys.readouterr()


def test_stats_and_tail_report(log, capsys):
    code, said = command(capsys, "stats", "--json")
    facts = json.loads(said.out)
    assert code == 0
    assert (facts["position"], facts["entries"]) == (40, 40)
    drift = {"error": 0.75, "entries": 40, "rises": 0, "falls": 0, "last_rise": None}
    assert facts["drift"] == drift
    assert facts["alarm"] is None
    code, said = command(capsys, "tail", "-n", "3", "--json")
    rows = json.loads(said.out)
    assert len(rows) == 3
    assert rows[0]["error"] == [0.75]
    code, said = command(capsys, "tail", "-n", "3")
    assert code == 0
    line = said.out.splitlines()[1]
    assert line.split()[1:] == [f"{source_id('mallory'):016x}", "1", "0.25", "0.75", "1"]


def test_a_source_is_forgotten_and_the_memory_is_switched(log, capsys):
    code, said = command(capsys, "forget", "--where", "source=nobody")
    assert (code, "0 entries are affected" in said.out) == (0, True)
    code, said = command(capsys, "forget", "--where", "source=mallory")
    assert (code, "its 20 entries" in said.out) == (0, True)
    assert command(capsys, "off")[0] == 0
    facts = json.loads(command(capsys, "stats", "--json")[1].out)
    assert (facts["entries"], facts["enabled"]) == (20, False)
    assert command(capsys, "on")[0] == 0
    assert json.loads(command(capsys, "stats", "--json")[1].out)["enabled"]


@pytest.mark.parametrize("arguments", [("forget", "--where", "mallory"), ("explain", "never-was")])
def test_a_mistake_is_one_line(log, capsys, arguments):
    code, said = command(capsys, *arguments)
    assert code == 2
    assert "error:" in said.err
    assert "Traceback" not in said.err
