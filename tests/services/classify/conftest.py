"""What classifies with the small edition of traffic."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from feature_store.editions.traffic import Decision, TrafficEdition
from feature_store.registry import Registry
from feature_store.traffic.capture import PacketBatch, open_capture
from services.classify.clock import Clock
from services.classify.source import Source
from services.classify.stream import ServedEdition, StreamClassifier, classify
from services.classify.verdict import Verdict
from tests.feature_store.traffic.conftest import pcap
from tests.pipelines.traffic.conftest import APPLICATIONS, conversation

VERSION = "20260101T000000-abcdef"


def deciding(edition: TrafficEdition, **changes: float) -> TrafficEdition:
    """The same edition with other thresholds."""
    decision = Decision.model_validate(edition.decision.model_dump() | changes)
    return replace(edition, decision=decision)


@pytest.fixture(scope="session")
def served(trained: TrafficEdition) -> ServedEdition:
    """Without early exit, and with nothing unknown: every packet has its verdict."""
    edition = deciding(trained, early_exit=1.0, unknown_below=0.0, network_weight=0.5)
    return ServedEdition(edition, VERSION)


def publish(registry: Registry, edition: TrafficEdition, staging: Path) -> str:
    """A new version, made champion."""
    staging.mkdir(parents=True, exist_ok=True)
    edition.save(staging)
    version = registry.publish(
        "traffic", staging, data_fingerprint="test", code_version="test", config={}, metrics={}
    ).version
    registry.promote("traffic", version, alias="champion")
    return version


def packets_of(path: Path) -> PacketBatch:
    """All packets of a small capture in one batch."""
    with open_capture(path) as capture:
        (batch,) = capture
    return batch


def verdicts_of(
    batches: list[PacketBatch], classifier: StreamClassifier, clock: Clock | None = None
) -> list[Verdict]:
    """Everything that is said of some packets."""
    found = classify(Source(batches, clock, "test"), classifier)
    return [verdict for verdicts in found for verdict in verdicts]


Said = tuple[str, int, str, str]


def said(verdicts: list[Verdict]) -> list[Said]:
    """What was said of each flow, in order, whatever the prediction's id."""
    return sorted((str(v.flow), v.packet, str(v.reason), v.label) for v in verdicts)


def confidences(verdicts: list[Verdict]) -> dict[tuple[str, int, str], float]:
    return {(str(v.flow), v.packet, str(v.reason)): v.confidence for v in verdicts}


def write_mixed(path: Path, *, flows: int, seed: int, spread_s: float = 1.0) -> Path:
    """One capture in which all applications talk at once, each `flows` times."""
    rng = np.random.default_rng(seed)
    packets = []
    for row, application in enumerate(APPLICATIONS.values()):
        for flow in range(flows):
            begin_s = 1_800_000_000 + float(rng.uniform(0, spread_s))
            packets += conversation(application, rng, begin_s, port=20_000 + 1_000 * row + flow)
    packets.sort(key=lambda packet: packet[0])
    times = [divmod(at, 1_000_000_000) for at, _ in packets]
    path.write_bytes(pcap([frame for _, frame in packets], nanoseconds=True, times=times))
    return path


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed(tmp_path_factory.mktemp("mixed") / "mixed.pcap", flows=12, seed=7)
