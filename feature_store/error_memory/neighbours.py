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
# exp(-12) = 6e-6: a bucket whose entries are all further away is passed over.
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


class Kernels(NamedTuple):
    """The kernels of a policy, and room to work in."""

    betas: FloatArray  # (B,) each once
    rates: FloatArray  # (H,) ln 2 / half-life, each once
    beta_of: NDArray[np.int64]  # (kernels,) place in betas
    rate_of: NDArray[np.int64]  # (kernels,) place in rates


class Scratch(NamedTuple):
    """Room for one reader."""

    buckets: NDArray[np.int64]  # (probes,)
    margins: FloatArray  # (bits,)
    distances: FloatArray  # (S,)
    near: FloatArray  # (B, S) exp(-β distance) · weight
    fresh: FloatArray  # (H, S) 2^(-age / half-life)
    powers: NDArray[np.int32]  # (S,) bits of powers of two
    powers_as_float: FloatArray  # (S,) the same memory


@compiled
def scratch(table: Neighbours, kernels: Kernels, probes: int) -> Scratch:
    """Room for one reader of `table`."""
    slots = table.sequence.shape[1]
    powers = np.empty(slots, np.int32)
    return Scratch(
        np.empty(probes, np.int64),
        np.empty(table.planes.shape[0], np.float32),
        np.empty(slots, np.float32),
        np.empty((kernels.betas.shape[0], slots), np.float32),
        np.empty((kernels.rates.shape[0], slots), np.float32),
        powers,
        powers.view(np.float32),
    )


@compiled
def exp_all(
    scale: float,
    values: FloatArray,
    out: FloatArray,
    powers: NDArray[np.int32],
    as_float: FloatArray,
) -> None:
    """out = exp(scale · values) for arguments of at most 0, to a relative 3e-7.

    2^y = 2^floor(y) · 2^(y - floor(y)): the first by the bits of a float's exponent, the second by
    a polynomial. Unlike a call of exp, the loop uses the machine's vectors.
    """
    factor = np.float32(scale) * np.float32(1.4426950408889634)
    for i in range(values.shape[0]):
        y = max(factor * values[i], np.float32(-126.0))
        whole = np.floor(y)
        powers[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        f = y - whole
        out[i] = np.float32(0.9999999) + f * (
            np.float32(0.69315308)
            + f
            * (
                np.float32(0.24015361)
                + f
                * (
                    np.float32(0.055826318)
                    + f * (np.float32(0.0089893397) + f * np.float32(0.0018775767))
                )
            )
        )
    for i in range(values.shape[0]):
        out[i] *= as_float[i]


@compiled
def sum_neighbours(
    table: Neighbours,
    key: FloatArray,
    now: int,
    kernels: Kernels,
    room: Scratch,
    out: FloatArray,  # (kernels, 1 + 2C), added to
) -> None:
    """Add each kernel's Σ w, Σ w·label, Σ w·prediction over the looked-at buckets."""
    d, slots, n_classes = key.shape[0], table.keys.shape[1], table.labels.shape[2]
    furthest = np.float32(_NEGLIGIBLE) / kernels.betas.min()
    found = probed_buckets(table, key, room.buckets, room.margins)
    distances = room.distances
    for place in range(found):
        bucket = room.buckets[place]
        nearest = np.float32(np.inf)
        for slot in range(slots):
            distance = np.float32(0.0)
            for j in range(d):
                step = key[j] - table.keys[bucket, slot, j]
                distance += step * step
            distances[slot] = distance
            if table.sequence[bucket, slot] != NOTHING:
                nearest = min(nearest, distance)
        if nearest > furthest:
            continue
        for i in range(kernels.betas.shape[0]):
            exp_all(-kernels.betas[i], distances, room.near[i], room.powers, room.powers_as_float)
            for slot in range(slots):  # an empty slot has no weight
                room.near[i, slot] *= table.weights[bucket, slot]
        for slot in range(slots):
            distances[slot] = np.float32(now - table.sequence[bucket, slot])
        for i in range(kernels.rates.shape[0]):
            exp_all(-kernels.rates[i], distances, room.fresh[i], room.powers, room.powers_as_float)
        for i in range(kernels.beta_of.shape[0]):
            near, fresh = room.near[kernels.beta_of[i]], room.fresh[kernels.rate_of[i]]
            total = np.float32(0.0)
            for slot in range(slots):
                distances[slot] = near[slot] * fresh[slot]
                total += distances[slot]
            out[i, 0] += total
            for c in range(n_classes):
                labels, predictions = np.float32(0.0), np.float32(0.0)
                for slot in range(slots):
                    labels += distances[slot] * table.labels[bucket, slot, c]
                    predictions += distances[slot] * table.predictions[bucket, slot, c]
                out[i, 1 + c] += labels
                out[i, 1 + n_classes + c] += predictions
