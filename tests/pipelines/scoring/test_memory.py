"""Batch scores corrected by what services learned, through a real Redis."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import redis
from polars.testing import assert_frame_equal

from errata.cli.main import run as command
from feature_store.editions import RecommenderEdition
from feature_store.editions.memory_keys import MemoryKeys
from feature_store.editions.traffic import TrafficEdition
from feature_store.error_memory.batch import ErrorBatch
from feature_store.online import EmbeddedRedis
from feature_store.registry import Registry
from pipelines.scoring.inputs import TABLE_SUFFIXES, find_files
from pipelines.scoring.job import in_process, score
from pipelines.scoring.memory import MemorySource
from pipelines.scoring.output import Output
from pipelines.scoring.recommender import RecommenderJob, TableSource
from services.classify.labels import Label
from services.classify.memory import TrafficMemory
from services.classify.source import Source
from services.classify.stream import ServedEdition, StreamClassifier, classify
from services.classify.verdict import Verdict
from services.recommend.memory_policy import DEFAULT_POLICY
from tests.services.classify.conftest import packets_of

from .conftest import write_some_captures, write_tables


def final_verdicts(memory: TrafficMemory, served: ServedEdition, capture: Path) -> list[Verdict]:
    source = Source([packets_of(capture)], None, "test")
    found = classify(source, StreamClassifier(served, corrector=memory))
    return [verdict for verdicts in found for verdict in verdicts if verdict.final]


def test_flows_are_corrected_as_the_service_does(
    home: Path,
    tmp_path: Path,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ERRATA_HOME", str(home))
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    captures = write_some_captures(tmp_path / "captures", flows=12)
    registry = Registry(home / "registry")
    directory, manifest = registry.open("traffic", "champion")
    served = ServedEdition(TrafficEdition.load(directory), manifest.version)
    memory = TrafficMemory(redis_client, served)
    try:
        for verdict in final_verdicts(memory, served, captures / "video.pcap"):
            memory.write([verdict])
            memory.learn([Label(verdict.prediction_id, "cinema")])
    finally:
        memory.close()
    memory = TrafficMemory(redis_client, served)  # as a service that starts now has it
    try:
        expected = {
            (name, v.flow.source, v.flow.source_port): (v.label, v.confidence)
            for name in ("video", "chat")
            for v in final_verdicts(memory, served, captures / f"{name}.pcap")
        }
    finally:
        memory.close()
    plain, out = tmp_path / "plain", tmp_path / "out"
    assert command(["score", "traffic", str(captures), "--out", str(plain)]) == 0
    assert command(["score", "traffic", str(captures), "--out", str(out), "--with-memory"]) == 0
    assert "12 errors were remembered" in " ".join(capfd.readouterr().err.split())
    rows = pl.read_parquet(out / "*.parquet")
    assert "cinema" in rows["label"].to_list()
    assert "cinema" not in pl.read_parquet(plain / "*.parquet")["label"].to_list()
    for row in rows.iter_rows(named=True):
        name = Path(row["capture"]).stem
        label, confidence = expected[name, row["source"], row["source_port"]]
        assert row["label"] == label
        assert row["confidence"] == pytest.approx(confidence, abs=1e-3)
    # A folder of corrected rows takes no others.
    assert command(["score", "traffic", str(captures), "--out", str(out)]) == 2


def test_lists_are_corrected_by_what_was_taken(
    home: Path, tmp_path: Path, redis_server: EmbeddedRedis, redis_client: redis.Redis
) -> None:
    data = write_tables(tmp_path / "data")
    registry = Registry(home / "registry")
    directory, manifest = registry.open("recommender", "champion")
    edition = RecommenderEdition.load(directory)
    policy = DEFAULT_POLICY.model_copy(update={"probation": 0, "source_share": 1.0})
    source = MemorySource(redis_server.url, policy)

    def lists(out: str, memory: MemorySource | None) -> pl.DataFrame:
        job = RecommenderJob(
            registry=str(home / "registry"), cache=None, reference="champion",
            version=manifest.version, kind="users", code_version="test", k=5, memory=memory,
            inputs=find_files([str(data / "asked.parquet")], suffixes=TABLE_SUFFIXES),
            histories=TableSource(
                *find_files([str(data / "interactions.parquet")], suffixes=TABLE_SUFFIXES)
            ),
        )  # fmt: skip
        score(job, Output(str(tmp_path / out)), engine=in_process)
        return pl.read_parquet(tmp_path / out / "*.parquet").sort("user_id")

    before = lists("before", None)
    assert_frame_equal(lists("empty", source), before)
    item = before["item_ids"].explode().value_counts().sort("count", "item_ids")["item_ids"][0]
    row = int(edition.catalogue.rows([item])[0])
    n = 400
    rng = np.random.default_rng(0)
    users = rng.standard_normal((n, edition.item_vectors.shape[1])).astype(np.float32)
    log = source.log("recommender", manifest.version)
    replica = source.of_lists(manifest.version)
    for begin in range(0, n, 20):
        some = slice(begin, begin + 20)
        keys = MemoryKeys(edition.item_vectors)(users[some], np.full(20, row))
        predicted = np.full((20, 1), 0.05, np.float32)
        taken = np.ones((20, 1), np.float32)
        reading = replica.read(keys, predicted)
        log.append(
            ErrorBatch.of(
                keys, taken, predicted, losses=reading.losses(taken),
                sources=np.arange(begin, begin + 20, dtype=np.uint64) + np.uint64(1),
                feedback_ids=np.arange(begin, begin + 20, dtype=np.uint64) + np.uint64(1),
            )
        )  # fmt: skip
        replica.poll()
    after = lists("after", source)

    def times_shown(found: pl.DataFrame) -> int:
        return int((found["item_ids"].explode() == item).sum())

    assert times_shown(after) > 2 * times_shown(before)
    assert after["item_ids"].list.len().to_list() == before["item_ids"].list.len().to_list()


def test_pairs_are_not_corrected_and_say_so(
    home: Path,
    tmp_path: Path,
    redis_server: EmbeddedRedis,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ERRATA_HOME", str(home))
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    data = write_tables(tmp_path / "data")
    pairs = str(data / "interactions.parquet")
    arguments = ["--pairs", pairs, "--data", str(data), "--out", str(tmp_path / "out")]
    assert command(["score", "recommender", *arguments, "--with-memory"]) == 2
    assert "goes with users" in capsys.readouterr().err
