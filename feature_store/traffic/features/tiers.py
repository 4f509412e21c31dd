"""A flow's features in three tiers, from what every observer sees to what leaks identity.

T0 is sizes, directions and gaps; T1 adds header fields without the protected ones; T2 is the raw
bytes. T2 shows how much a model gains by recognising hosts, and is never a result of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.features.protected import protect_headers
from feature_store.traffic.flows.fields import HEADER_FIELDS
from feature_store.traffic.flows.flow import RAW_BYTES, RAW_PACKETS, FlowBatch


class Tier(StrEnum):
    """How much of a flow is seen. Each tier contains the ones before it."""

    T0 = "T0"
    T1 = "T1"
    T2 = "T2"


@dataclass(frozen=True, slots=True)
class FlowFeatures:
    """What a sequence model reads of n flows with M kept packets; zero behind a flow's end.

    Shapes:
        kept: (n,) int32, packets that are there
        size: (n, M) int32, bytes of the IP packet
        direction: (n, M) int8, +1 from the first packet's sender, -1 to it
        gap_s: (n, M) float32, seconds since the packet before
        fields: (n, M, K) uint16, `HEADER_FIELDS`; no columns below T1
        headers: (n, 5, 80) uint8, protected fields zero; no columns below T1
        raw: (n, 5, 320) uint8; no columns below T2
    """

    tier: Tier
    kept: NDArray[np.int32]
    size: NDArray[np.int32]
    direction: NDArray[np.int8]
    gap_s: NDArray[np.float32]
    fields: NDArray[np.uint16]
    headers: NDArray[np.uint8]
    raw: NDArray[np.uint8]


def flow_features(flows: FlowBatch, tier: Tier) -> FlowFeatures:
    """The features of a tier, and nothing of the tiers above it."""
    sees_fields, sees_bytes = tier is not Tier.T0, tier is Tier.T2
    return FlowFeatures(
        tier=tier,
        kept=flows.flow["kept"].copy(),
        size=flows.size,
        direction=flows.direction,
        gap_s=(flows.gap_ns / 1e9).astype(np.float32),
        fields=flows.fields if sees_fields else flows.fields[:, :, :0],
        headers=protect_headers(flows) if sees_fields else flows.raw[:, :, :0],
        raw=flows.raw if sees_bytes else flows.raw[:, :, :0],
    )


def feature_table(flows: FlowBatch, tier: Tier) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """What a tree reads: (n, columns) float32, and the columns' names.

    T0 has each packet's signed size and gap, then statistics of the kept packets each way; T1 adds
    every kept packet's header fields; T2 adds the raw bytes.
    """
    features = flow_features(flows, tier)
    n, packets = features.size.shape
    signed = features.size * features.direction
    columns: list[NDArray[np.float32]] = [signed.astype(np.float32), features.gap_s]
    names = [f"size_{p}" for p in range(packets)] + [f"gap_{p}" for p in range(packets)]
    for way, suffix in ((1, "out"), (-1, "in")):
        there = features.direction == way
        for quantity, values in (("size", features.size), ("gap", features.gap_s)):
            columns.append(_statistics(values.astype(np.float64), there))
            names += [f"{quantity}_{name}_{suffix}" for name in STATISTICS]
    columns.append(features.gap_s.sum(axis=1, keepdims=True))
    names.append("duration")
    if tier is not Tier.T0:
        fields = features.fields.astype(np.float32)
        columns.append(fields.reshape(n, packets * len(HEADER_FIELDS)))  # (n, M·K)
        names += [f"{name}_{p}" for p in range(packets) for name in HEADER_FIELDS]
    if tier is Tier.T2:
        columns.append(features.raw.astype(np.float32).reshape(n, RAW_PACKETS * RAW_BYTES))
        names += [f"byte_{b}" for b in range(RAW_PACKETS * RAW_BYTES)]
    return np.hstack(columns), tuple(names)


STATISTICS = ("count", "sum", "mean", "std", "min", "max")


def _statistics(values: NDArray[np.float64], there: NDArray[np.bool_]) -> NDArray[np.float32]:
    """(n, 6) over the values that are there; zero where none is."""
    count = there.sum(axis=1)
    some = np.maximum(count, 1)
    total = np.where(there, values, 0).sum(axis=1)
    mean = total / some
    spread = np.where(there, values - mean[:, None], 0)
    std = np.sqrt((spread**2).sum(axis=1) / some)
    low = np.where(count > 0, np.where(there, values, np.inf).min(axis=1, initial=np.inf), 0)
    high = np.where(count > 0, np.where(there, values, -np.inf).max(axis=1, initial=-np.inf), 0)
    return np.stack([count, total, mean, std, low, high], axis=1).astype(np.float32)
