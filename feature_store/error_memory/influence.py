"""Which stored errors speak loudest, and how many are heard at a place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.compiled import compiled
from feature_store.error_memory.neighbours import (
    NOTHING,
    Kernels,
    Neighbours,
    probed_buckets,
)

FloatArray = NDArray[np.float32]
# An entry counts as heard where its kernel weight is at least this.
_HEARD = 0.1


@dataclass(frozen=True)
class Influential:
    """k stored errors, the most influential first.

    Attributes:
        influence: (k,) float32: how far the entry alone would move a prediction at its own place,
            half the sum of |label - prediction| times the weight that the experts give it now.
        keys: (k, d); labels, predictions: (k, C); weights, ages: (k,), ages in entries since.
        time_ms: (k,) int64; sources, feedback_ids: (k,) uint64, see `source_id`.
    """

    influence: FloatArray
    keys: FloatArray
    labels: FloatArray
    predictions: FloatArray
    weights: FloatArray
    ages: NDArray[np.int64]
    time_ms: NDArray[np.int64]
    sources: NDArray[np.uint64]
    feedback_ids: NDArray[np.uint64]


def most_influential(
    table: Neighbours, kernels: Kernels, trust: NDArray[np.float64], *, now: int, k: int
) -> Influential:
    """See `Influential`; `trust` (kernels,) is how much each kernel is listened to."""
    buckets, slots = np.nonzero(table.sequence != NOTHING)
    ages = now - table.sequence[buckets, slots]
    weights = table.weights[buckets, slots]
    faded = np.exp(-kernels.rates[kernels.rate_of].astype(np.float64)[:, None] * ages)
    error = table.labels[buckets, slots] - table.predictions[buckets, slots]
    size = np.abs(error).sum(1) / (2 if error.shape[1] > 1 else 1)
    influence = (size * weights * (trust @ faded)).astype(np.float32)
    best = np.argsort(-influence, kind="stable")[:k]
    at = buckets[best], slots[best]
    return Influential(
        influence=influence[best],
        keys=table.keys[at],
        labels=table.labels[at],
        predictions=table.predictions[at],
        weights=weights[best],
        ages=ages[best],
        time_ms=table.time_ms[at],
        sources=table.sources[at],
        feedback_ids=table.feedback_ids[at],
    )


@compiled
def count_heard(
    table: Neighbours,
    kernels: Kernels,
    probes: int,
    keys: FloatArray,
    now: int,
    out: NDArray[np.int64],
) -> None:
    """How many entries are heard at each key (n, d), by the widest and slowest kernel."""
    beta, rate = kernels.betas.min(), kernels.rates.min()
    buckets = np.empty(probes, np.int64)
    margins = np.empty(table.planes.shape[0], np.float32)
    for i in range(keys.shape[0]):
        found = probed_buckets(table, keys[i], buckets, margins)
        for place in range(found):
            bucket = buckets[place]
            for slot in range(table.sequence.shape[1]):
                if table.sequence[bucket, slot] == NOTHING:
                    continue
                distance = np.float32(0.0)
                for j in range(keys.shape[1]):
                    step = keys[i, j] - table.keys[bucket, slot, j]
                    distance += step * step
                age = now - table.sequence[bucket, slot]
                weight = table.weights[bucket, slot] * np.exp(-beta * distance - rate * age)
                if weight >= _HEARD:
                    out[i] += 1
