"""What trees learn of running flows: each as it was after a random number of its packets."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.features import Tier, feature_table
from feature_store.traffic.flows import FlowBatch


def with_beginning(
    flows: FlowBatch, beginning_weight: float, *, tier: Tier, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float64]]:
    """Rows of the flows and of one beginning of each, the flow of each row, and its weight: 1 of a
    whole flow. Without a weight there are no beginnings."""
    tables, rows = [feature_table(flows, tier)[0]], [np.arange(len(flows))]
    if beginning_weight:
        kept = flows.flow["kept"].astype(np.int64)
        drawn = np.random.default_rng(seed).random(len(flows))
        packets = np.where(kept > 1, 1 + (drawn * (kept - 1)).astype(np.int64), 0)
        for count in np.unique(packets[packets > 0]):
            longer = np.flatnonzero(packets == count)
            tables.append(feature_table(flows[longer].cut(int(count)), tier)[0])
            rows.append(longer)
    found = np.concatenate(rows)
    weight = np.where(np.arange(len(found)) < len(flows), 1.0, beginning_weight)
    return np.concatenate(tables), found, weight
