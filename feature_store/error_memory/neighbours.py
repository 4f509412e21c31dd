"""Stored errors one by one: buckets of neighbours, each a ring of its newest entries.

An entry belongs to the bucket that the SimHash of its key names. A full bucket forgets its own
oldest entry, so a kind of prediction that is rare keeps its history while a frequent one turns
over, and no key can take more than a bucket. A read looks at a few contiguous buckets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.compiled import compiled
from feature_store.error_memory.hashing import bucket_of, hyperplanes, signs

FloatArray = NDArray[np.float32]
NOTHING = -1
# exp(-12) = 6e-6: entries further away than that do not count for any kernel.
_NEGLIGIBLE = 12.0


class Neighbours(NamedTuple):
    """N buckets of S slots."""

    planes: FloatArray  # (bits, d)
    keys: FloatArray  # (N, S, d)
    labels: FloatArray  # (N, S, C)
    predictions: FloatArray  # (N, S, C)
    weights: FloatArray  # (N, S)
    sequence: NDArray[np.int64]  # (N, S) number of the write, or NOTHING
    sources: NDArray[np.uint64]  # (N, S)
    feedback_ids: NDArray[np.uint64]  # (N, S)
    time_ms: NDArray[np.int64]  # (N, S)


def empty_neighbours(
    *, n_buckets: int, slots: int, d: int, n_classes: int, bits: int, seed: int
) -> Neighbours:
    """A table without entries."""
    shape = (n_buckets, slots)
    return Neighbours(
        planes=hyperplanes(bits, d, seed=seed),
        keys=np.zeros((*shape, d), np.float32),
        labels=np.zeros((*shape, n_classes), np.float32),
        predictions=np.zeros((*shape, n_classes), np.float32),
        weights=np.zeros(shape, np.float32),
        sequence=np.full(shape, NOTHING, np.int64),
        sources=np.zeros(shape, np.uint64),
        feedback_ids=np.zeros(shape, np.uint64),
        time_ms=np.zeros(shape, np.int64),
    )


@compiled
def slot_for(table: Neighbours, bucket: int, source: int, most_of_source: int) -> int:
    """Where a new entry goes: a free slot, the source's own oldest once it holds its share, or
    the bucket's oldest."""
    slots = table.sequence.shape[1]
    oldest, oldest_own, own = 0, -1, 0
    for slot in range(slots):
        number = table.sequence[bucket, slot]
        if number < table.sequence[bucket, oldest]:
            oldest = slot
        if number != NOTHING and table.sources[bucket, slot] == source:
            own += 1
            if oldest_own < 0 or number < table.sequence[bucket, oldest_own]:
                oldest_own = slot
    return oldest_own if own >= most_of_source else oldest


@compiled
def write_neighbour(
    table: Neighbours,
    key: FloatArray,
    label: FloatArray,
    prediction: FloatArray,
    weight: float,
    number: int,
    source: int,
    feedback_id: int,
    time_ms: int,
    most_of_source: int,
    margins: FloatArray,
) -> None:
    """Store one entry."""
    bucket = bucket_of(signs(key, table.planes, margins), table.keys.shape[0])
    slot = slot_for(table, bucket, source, most_of_source)
    table.keys[bucket, slot] = key
    table.labels[bucket, slot] = label
    table.predictions[bucket, slot] = prediction
    table.weights[bucket, slot] = weight
    table.sequence[bucket, slot] = number
    table.sources[bucket, slot] = source
    table.feedback_ids[bucket, slot] = feedback_id
    table.time_ms[bucket, slot] = time_ms


@compiled
def probed_buckets(
    table: Neighbours, key: FloatArray, buckets: NDArray[np.int64], margins: FloatArray
) -> int:
    """Fill `buckets` with those to look at, nearest first and each once; returns how many."""
    n_buckets, bits = table.keys.shape[0], table.planes.shape[0]
    code = np.uint64(signs(key, table.planes, margins))
    buckets[0] = bucket_of(code, n_buckets)  # type: ignore[arg-type]
    found = 1
    for _ in range(min(buckets.shape[0] - 1, bits)):
        nearest = 0
        for bit in range(1, bits):
            if abs(margins[bit]) < abs(margins[nearest]):
                nearest = bit
        margins[nearest] = np.inf
        other = bucket_of(code ^ (np.uint64(1) << np.uint64(nearest)), n_buckets)  # type: ignore[arg-type]
        known = False
        for place in range(found):
            known |= buckets[place] == other
        if not known:
            buckets[found] = other
            found += 1
    return found


@compiled
def sum_neighbours(
    table: Neighbours,
    key: FloatArray,
    now: int,
    betas: FloatArray,  # (B,) each kernel's own
    rates: FloatArray,  # (H,) ln 2 / half-life
    kernel_beta: NDArray[np.int64],  # (kernels,) place in betas
    kernel_rate: NDArray[np.int64],  # (kernels,) place in rates
    buckets: NDArray[np.int64],
    margins: FloatArray,
    near: FloatArray,  # (B,) scratch
    fresh: FloatArray,  # (H,) scratch
    out: FloatArray,  # (kernels, 1 + 2C), added to
) -> None:
    """Add each kernel's Σ w, Σ w·label, Σ w·prediction over the looked-at buckets."""
    d, slots, n_classes = key.shape[0], table.keys.shape[1], table.labels.shape[2]
    furthest = np.float32(_NEGLIGIBLE) / betas.min()
    found = probed_buckets(table, key, buckets, margins)
    for place in range(found):
        bucket = buckets[place]
        for slot in range(slots):
            number = table.sequence[bucket, slot]
            if number == NOTHING:
                continue
            distance = np.float32(0.0)
            for j in range(d):
                step = key[j] - table.keys[bucket, slot, j]
                distance += step * step
            if distance > furthest:
                continue
            weight = table.weights[bucket, slot]
            age = np.float32(now - number)
            for i in range(betas.shape[0]):
                near[i] = weight * np.exp(-betas[i] * distance)
            for i in range(rates.shape[0]):
                fresh[i] = np.exp(-rates[i] * age)
            for i in range(kernel_beta.shape[0]):
                each = near[kernel_beta[i]] * fresh[kernel_rate[i]]
                out[i, 0] += each
                for c in range(n_classes):
                    out[i, 1 + c] += each * table.labels[bucket, slot, c]
                    out[i, 1 + n_classes + c] += each * table.predictions[bucket, slot, c]
