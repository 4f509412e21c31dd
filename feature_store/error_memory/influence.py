"""Which stored errors speak loudest, and how many are heard at a place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.compiled import allocating
from feature_store.error_memory.kernels import Kernels
from feature_store.error_memory.lanes import squared_distances
from feature_store.error_memory.neighbours import NOTHING, Neighbours, probed_buckets

FloatArray = NDArray[np.float32]
# An entry counts as heard where its kernel weight is at least this.
_HEARD = 0.1
# What would move a prediction by less is not said to.
_MOVES = 1e-4


@dataclass(frozen=True)
class Influential:
    """k stored errors, the most influential first.

    Attributes:
        influence: (k,) float32: how far the entry alone would move a prediction at its own place,
            or at the one that was asked about: half the sum of |label - prediction| times the
            weight that the experts give it now.
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
    table: Neighbours,
    kernels: Kernels,
    trust: NDArray[np.float64],
    *,
    now: int,
    k: int,
    at: FloatArray | None = None,
    probes: int = 1,
) -> Influential:
    """See `Influential`; `trust` (kernels,) is how much each kernel is listened to. With a key `at`
    (d,) only what is heard there, in as many buckets as a read looks at, `probes`."""
    kept = table.sequence != NOTHING
    if at is not None:
        looked_at = np.empty(probes, np.int64)
        margins = np.empty(table.planes.shape[1], np.float32)
        found = probed_buckets(table, at, looked_at, margins)
        kept &= np.isin(np.arange(len(kept)), looked_at[:found])[:, None]
    buckets, slots = np.nonzero(kept)
    ages = now - table.sequence[buckets, slots]
    weights = table.weights[buckets, slots]
    faded = np.exp(-kernels.rates[kernels.rate_of].astype(np.float64)[:, None] * ages)
    if at is not None:
        keys = table.keys.view(np.float16)[buckets, :, slots].astype(np.float32)
        distances = ((keys - at) ** 2).sum(1)
        faded *= np.exp(-kernels.betas[kernels.beta_of].astype(np.float64)[:, None] * distances)
    error = table.labels[buckets, :, slots] - table.predictions[buckets, :, slots]
    size = np.abs(error).sum(1) / (2 if error.shape[1] > 1 else 1)
    influence = (size * weights * (trust @ faded)).astype(np.float32)
    best = np.argsort(-influence, kind="stable")[:k]
    if at is not None:
        best = best[influence[best] >= _MOVES]
    cells, across = (buckets[best], slots[best]), (buckets[best], slice(None), slots[best])
    return Influential(
        influence=influence[best],
        keys=table.keys.view(np.float16)[across].astype(np.float32),
        labels=table.labels[across],
        predictions=table.predictions[across],
        weights=weights[best],
        ages=ages[best],
        time_ms=table.time_ms[cells],
        sources=table.sources[cells],
        feedback_ids=table.feedback_ids[cells],
    )


@allocating
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
    margins = np.empty(table.planes.shape[1], np.float32)
    distances = np.empty(table.sequence.shape[1], np.float32)
    for i in range(keys.shape[0]):
        found = probed_buckets(table, keys[i], buckets, margins)
        for place in range(found):
            bucket = buckets[place]
            squared_distances(keys[i], table.keys[bucket], distances)
            for slot in range(distances.shape[0]):
                if table.sequence[bucket, slot] == NOTHING:
                    continue
                age = now - table.sequence[bucket, slot]
                weight = table.weights[bucket, slot] * np.exp(-beta * distances[slot] - rate * age)
                if weight >= _HEARD:
                    out[i] += 1
