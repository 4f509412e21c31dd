"""Published editions of both models that need no training, users with histories, captures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from feature_store.editions.traffic import Decision, TrafficEdition, build_network
from feature_store.error_memory import KeySpace
from feature_store.registry import Registry
from feature_store.traffic.features import Tier
from feature_store.traffic.flows import HEADER_FIELDS
from models.traffic.embedding import EmbeddingConfig
from models.traffic.encoder import EncoderConfig
from tests.pipelines.traffic.conftest import APPLICATIONS, write_recording
from tests.services.recommend.conftest import GENRES, make_edition

CLASSES = ("chat", "lookup", "video")


def publish(registry: Registry, model: str, directory: Path) -> str:
    """A new version, made champion."""
    version = registry.publish(
        model, directory, data_fingerprint="test", code_version="test", config={}, metrics={}
    ).version
    registry.promote(model, version, alias="champion")
    return version


def make_traffic_edition() -> TrafficEdition:
    """Random weights: verdicts that differ from flow to flow are all that is needed."""
    embedding = EmbeddingConfig(packets=8, fields=len(HEADER_FIELDS), byte_packets=0)
    network = build_network(embedding, EncoderConfig(d_model=16, layers=1), len(CLASSES)).eval()
    keys = KeySpace(np.zeros(16, np.float32), np.ones(16, np.float32))
    return TrafficEdition(CLASSES, Tier.T1, network, None, Decision(unknown_below=0.3), keys)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An `ERRATA_HOME` whose registry has a champion of both models."""
    home = tmp_path / "home"
    registry = Registry(home / "registry")
    for model, edition in (("recommender", make_edition()), ("traffic", make_traffic_edition())):
        staging = tmp_path / f"staged-{model}"
        staging.mkdir()
        edition.save(staging)
        publish(registry, model, staging)
    return home


def write_tables(directory: Path, *, users: int = 60, events_a_user: int = 6) -> Path:
    """`interactions.parquet`, and `asked.parquet` with the users in another order."""
    rng = np.random.default_rng(0)
    directory.mkdir(parents=True)
    rows = [
        (
            f"u{user}",
            f"{rng.choice(['book', 'film'])}-{GENRES[user % 3]}-{rng.integers(20):02}",
            1_000 * int(rng.integers(10_000)),
            "dismiss" if rng.random() < 0.1 else "click",
        )
        for user in range(users)
        for _ in range(user % (events_a_user + 1))
    ]
    pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "type"], orient="row").sample(
        fraction=1, shuffle=True, seed=1
    ).with_columns(
        pl.from_epoch("timestamp", time_unit="ms")
        .dt.cast_time_unit("ms")
        .dt.replace_time_zone("UTC")
    ).write_parquet(directory / "interactions.parquet")
    pl.DataFrame({"user_id": [f"u{user}" for user in rng.permutation(users)]}).write_parquet(
        directory / "asked.parquet"
    )
    return directory


def write_some_captures(directory: Path, *, flows: int = 30) -> Path:
    """Two captures and a file that is none."""
    for number, name in enumerate(("chat", "video")):
        write_recording(
            directory / f"{name}.pcap", APPLICATIONS[name], flows=flows, begin_s=1e9, seed=number
        )
    (directory / "zz.pcap").write_text("no capture at all")
    return directory


def read_rejects(out: Path) -> list[dict[str, Any]]:
    """What a job left out."""
    return [json.loads(line) for line in (out / "rejects.jsonl").read_text().splitlines()]
