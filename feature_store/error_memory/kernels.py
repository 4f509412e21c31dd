"""What each kernel of a policy hears of the errors near a key: sums over the looked-at buckets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.compiled import allocating, compiled
from feature_store.error_memory.lanes import float_of_bits, squared_distances
from feature_store.error_memory.neighbours import Neighbours

FloatArray = NDArray[np.float32]
# exp(-16) = 1e-7: where all entries are further away than this, a kernel hears none of them; 64 of
# them would move an estimate by less than 3e-5.
SILENT = np.float32(16.0)


class Kernels(NamedTuple):
    """The kernels of a policy."""

    betas: FloatArray  # (B,) each once, the widest (smallest) first
    rates: FloatArray  # (H,) ln 2 / half-life, each once
    beta_of: NDArray[np.int64]  # (kernels,) place in betas
    rate_of: NDArray[np.int64]  # (kernels,) place in rates


class Scratch(NamedTuple):
    """Room for a read of n keys: which buckets, and then a place for each of the P · S entries that
    one key looks at."""

    margins: FloatArray  # (bits,)
    wanted: NDArray[np.int64]  # (n, P) buckets to look at
    found: NDArray[np.int64]  # (n,) how many of them are different ones
    distances: FloatArray  # (P·S,) squared
    ages: FloatArray  # (P·S,)
    values: FloatArray  # (1 + 2C, P·S) weight, weight · label, weight · prediction
    near: FloatArray  # (B, P·S) exp(-β distance)
    fresh: FloatArray  # (H, P·S) 2^(-age / half-life)
    heard: FloatArray  # (P·S,) near · fresh, of one kernel
    sums: FloatArray  # (kernels, 1 + 2C) Σ w, Σ w·label, Σ w·prediction over the entries


@allocating
def scratch(table: Neighbours, kernels: Kernels, n: int, probes: int) -> Scratch:
    """Room for a read of `n` keys."""
    entries, columns = probes * table.sequence.shape[1], 1 + 2 * table.labels.shape[1]
    n_kernels, n_betas, n_rates = (
        kernels.beta_of.shape[0],
        kernels.betas.shape[0],
        kernels.rates.shape[0],
    )
    return Scratch(
        margins=np.empty(table.planes.shape[1], np.float32),
        wanted=np.empty((n, probes), np.int64),
        found=np.empty(n, np.int64),
        distances=np.empty(entries, np.float32),
        ages=np.empty(entries, np.float32),
        values=np.empty((columns, entries), np.float32),
        near=np.empty((n_betas, entries), np.float32),
        fresh=np.empty((n_rates, entries), np.float32),
        heard=np.empty(entries, np.float32),
        sums=np.empty((n_kernels, columns), np.float32),
    )


@compiled
def exp_all(scale: float, values: FloatArray, out: FloatArray) -> None:
    """out = exp(scale · values) for arguments of at most 0, to a relative 3e-7 and what rounding
    the argument makes of it (4e-6 at -80).

    2^y = 2^floor(y) · 2^(y - floor(y)): the first by the bits of a float's exponent, the second by
    a polynomial. Unlike a call of exp, the loop uses the machine's vectors.
    """
    factor = np.float32(scale) * np.float32(1.4426950408889634)
    least = np.float32(-126.0)
    for i in range(values.shape[0]):
        y = factor * values[i]
        y = y if y > least else least
        whole = np.floor(y)
        f = y - whole
        power = float_of_bits((np.int32(whole) + np.int32(127)) << np.int32(23))
        out[i] = power * (
            np.float32(0.9999999)
            + f
            * (
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
        )


@compiled
def nearest_of(distances: FloatArray) -> np.float32:
    """The least distance. None is below 0, so their bits are in the same order, and whole numbers
    are compared with the machine's vectors."""
    bits = distances.view(np.int32)
    least = np.int32(2**31 - 1)
    for i in range(bits.shape[0]):
        least = min(least, bits[i])
    nearest: np.float32 = float_of_bits(least)
    return nearest


@compiled
def look_at(table: Neighbours, bucket: int, now: int, at: int, room: Scratch) -> None:
    """Ages and values of a bucket's entries, into the places from `at` on."""
    weights, numbers = table.weights[bucket], table.sequence[bucket]
    slots, n_classes = weights.shape[0], table.labels.shape[1]
    ages, first = room.ages[at : at + slots], room.values[0, at : at + slots]
    for slot in range(slots):
        ages[slot] = np.float32(now - numbers[slot])
        first[slot] = weights[slot]
    for c in range(n_classes):
        weigh(weights, table.labels[bucket, c], room.values[1 + c, at : at + slots])
        weigh(
            weights, table.predictions[bucket, c], room.values[1 + n_classes + c, at : at + slots]
        )


@compiled
def weigh(weights: FloatArray, values: FloatArray, out: FloatArray) -> None:
    """out = weights · values."""
    for i in range(weights.shape[0]):
        out[i] = weights[i] * values[i]


@compiled
def listen(near: FloatArray, fresh: FloatArray, room: Scratch, sums: FloatArray) -> None:
    """One kernel's sums: the values times near · fresh, over the entries."""
    weigh(near, fresh, room.heard)
    for row in range(sums.shape[0]):
        total = np.float32(0.0)
        for i in range(near.shape[0]):
            total += room.heard[i] * room.values[row, i]
        sums[row] = total


@compiled
def sum_neighbours(
    table: Neighbours,
    key: FloatArray,
    buckets: NDArray[np.int64],
    now: int,
    kernels: Kernels,
    room: Scratch,
) -> None:
    """Each kernel's `room.sums` over the entries of some buckets."""
    room.sums[:] = np.float32(0.0)
    slots = table.sequence.shape[1]
    nearest, n = np.float32(np.inf), 0  # of the entries that are looked at
    for place in range(buckets.shape[0]):
        bucket, distances = buckets[place], room.distances[n : n + slots]
        squared_distances(key, table.keys[bucket], distances)
        of_bucket = nearest_of(distances)
        if kernels.betas[0] * of_bucket <= SILENT:
            look_at(table, bucket, now, n, room)
            nearest = min(nearest, of_bucket)
            n += slots
    if n == 0:
        return
    for i in range(kernels.betas.shape[0]):
        if kernels.betas[i] * nearest <= SILENT:
            exp_all(-kernels.betas[i], room.distances[:n], room.near[i, :n])
    for i in range(kernels.rates.shape[0]):
        exp_all(-kernels.rates[i], room.ages[:n], room.fresh[i, :n])
    for i in range(kernels.beta_of.shape[0]):
        beta, rate = kernels.beta_of[i], kernels.rate_of[i]
        if kernels.betas[beta] * nearest <= SILENT:
            listen(room.near[beta, :n], room.fresh[rate, :n], room, room.sums[i])
