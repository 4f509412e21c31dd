"""Stored errors one by one: buckets of neighbours, each a ring of its newest entries.

An entry belongs to the bucket that the SimHash of its key names. A full bucket forgets its own
oldest entry, so a kind of prediction that is rare keeps its history while a frequent one turns
over, and no key can take more than a bucket. A read looks at a few contiguous buckets, in which
the slots come last: what is done with all entries of a bucket then uses the machine's vectors.

Keys are kept as half floats, which is what comes over the wire (`wire.py`): a read of many waits
for memory above all, and half of what it waited for were keys.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store.compiled import CACHE_LINE_BYTES, prefetch_far
from feature_store.error_memory.compiled import compiled
from feature_store.error_memory.hashing import bucket_of, code_of, hyperplanes
from feature_store.error_memory.lanes import products

FloatArray = NDArray[np.float32]
HalfBits = NDArray[np.uint16]
NOTHING = -1


class Neighbours(NamedTuple):
    """N buckets of S slots."""

    planes: FloatArray  # (d, bits)
    keys: HalfBits  # (N, d, S) bits of float16; infinity where a slot is free
    labels: FloatArray  # (N, C, S)
    predictions: FloatArray  # (N, C, S)
    weights: FloatArray  # (N, S), 0 where a slot is free
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
        planes=np.ascontiguousarray(hyperplanes(bits, d, seed=seed).T),
        keys=np.full((n_buckets, d, slots), np.inf, np.float16).view(np.uint16),
        labels=np.zeros((n_buckets, n_classes, slots), np.float32),
        predictions=np.zeros((n_buckets, n_classes, slots), np.float32),
        weights=np.zeros(shape, np.float32),
        sequence=np.full(shape, NOTHING, np.int64),
        sources=np.zeros(shape, np.uint64),
        feedback_ids=np.zeros(shape, np.uint64),
        time_ms=np.zeros(shape, np.int64),
    )


def half_bits(keys: FloatArray) -> HalfBits:
    """Keys as the table keeps them: the bits of the nearest float16, none of them infinite."""
    largest = np.finfo(np.float16).max
    return np.clip(keys, -largest, largest).astype(np.float16).view(np.uint16)


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
    halved: HalfBits,
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
    """Store one entry; `halved` is its key as the table keeps it."""
    products(key, table.planes, margins)
    bucket = bucket_of(code_of(margins), table.keys.shape[0])
    slot = slot_for(table, bucket, source, most_of_source)
    for j in range(halved.shape[0]):
        table.keys[bucket, j, slot] = halved[j]
    for c in range(label.shape[0]):
        table.labels[bucket, c, slot] = label[c]
        table.predictions[bucket, c, slot] = prediction[c]
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
    n_buckets, bits = table.keys.shape[0], table.planes.shape[1]
    products(key, table.planes, margins)
    code = np.uint64(code_of(margins))
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
def ask_for_bucket(table: Neighbours, bucket: int) -> None:
    """Begin to fetch from memory what a read looks at in a bucket, and do not wait for it."""
    ask_for(table.keys, bucket)
    ask_for(table.weights, bucket)
    ask_for(table.sequence, bucket)
    ask_for(table.labels, bucket)
    ask_for(table.predictions, bucket)


@compiled
def ask_for(array: NDArray[Any], row: int) -> None:
    """Begin to fetch `array[row]`."""
    size, step = array[row].size, CACHE_LINE_BYTES // array.itemsize
    for at in range(0, size, step):
        prefetch_far(array, row * size + at)
