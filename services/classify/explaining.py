"""What is remembered near a flow, and what it makes of the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import redis
from numpy.typing import NDArray

from feature_store.editions.corrections import corrected_classes
from feature_store.editions.traffic import TrafficEdition
from feature_store.error_memory.influence import Influential
from feature_store.error_memory.replica import MemoryReplica
from services.classify.neighbours import RecentFlows
from services.classify.replicas import RecentStream
from services.classify.verdict import Verdict

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Said:
    """Three fields of a `Verdict`."""

    label: str
    guess: str
    confidence: float

    @classmethod
    def of(cls, edition: TrafficEdition, row: FloatArray, classes: tuple[str, ...]) -> Said:
        """From probabilities (C,) of these classes."""
        (label,) = edition.names(row[None], classes)
        return cls(label, classes[row.argmax()], float(row.max()))


@dataclass(frozen=True)
class ExplainedVerdict:
    """A final verdict and the memory.

    Attributes:
        verdict: as it was given, corrected by what was remembered then.
        own: what the edition itself says.
        now: what would be said now.
        gate_open: whether corrections are applied now.
        entries: those that speak loudest to this flow, the loudest first; what the memory no longer
            holds one by one may move it too.
    """

    verdict: Verdict
    own: Said
    now: Said
    gate_open: bool
    entries: Influential


def recent_verdict(client: redis.Redis, prediction_id: str, *, tenant: str) -> Verdict | None:
    """The final verdict of any replica, while it is among the newest; see `RecentStream`.

    Raises:
        redis.RedisError: the server is gone.
    """
    flows = RecentFlows()
    RecentStream(client, tenant=tenant).bring(flows)
    found = flows.near(prediction_id, k=0)
    return None if found is None else found[0].verdict


def explain(
    verdict: Verdict,
    edition: TrafficEdition,
    replica: MemoryReplica,
    classes: tuple[str, ...],
    *,
    k: int,
) -> ExplainedVerdict:
    """With up to `k` entries. `verdict`: of the version whose edition and memory these are;
    `classes`: names of the memory's columns."""
    own = verdict.own[None]
    keys = edition.memory_keys(own, verdict.hidden[None])
    corrected, reading = corrected_classes(replica, keys, own)
    return ExplainedVerdict(
        verdict,
        own=Said.of(edition, verdict.own, edition.classes),
        now=Said.of(edition, corrected[0], classes),
        gate_open=reading.gate_open,
        entries=replica.memory.influential(k, at=keys[0]),
    )
