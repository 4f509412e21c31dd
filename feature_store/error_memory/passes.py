"""Passes of the compiled code over a batch: read, mix, write, learn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.compiled import allocating, compiled
from feature_store.error_memory.hashing import bucket_of
from feature_store.error_memory.kernels import Kernels, Scratch, scratch, sum_neighbours
from feature_store.error_memory.mixture import Mixture, estimate, gate_open, learn
from feature_store.error_memory.neighbours import (
    HalfBits,
    Neighbours,
    ask_for_bucket,
    probed_buckets,
    write_neighbour,
)
from feature_store.error_memory.policy import MemoryPolicy
from feature_store.error_memory.sketches import SketchTable, sum_sketch, write_sketch

FloatArray = NDArray[np.float32]


class Parameters(NamedTuple):
    """The policy as the compiled code reads it."""

    kernels: Kernels
    gammas: FloatArray  # (E - 1,)
    probes: int
    evidence: float
    by_class: bool
    gated: bool
    probation: float


def read_parameters(policy: MemoryPolicy, *, by_class: bool) -> Parameters:
    """The policy, for the compiled code."""
    betas = sorted({kernel.beta for kernel in policy.kernels}) or [1.0]
    half_lives = sorted({kernel.half_life for kernel in policy.kernels}) or [1.0]
    return Parameters(
        kernels=Kernels(
            betas=np.array(betas, np.float32),
            rates=(np.log(2) / np.array(half_lives)).astype(np.float32),
            beta_of=np.array([betas.index(k.beta) for k in policy.kernels], np.int64),
            rate_of=np.array([half_lives.index(k.half_life) for k in policy.kernels], np.int64),
        ),
        gammas=np.array(
            [k.gamma for k in policy.kernels] + [s.gamma for s in policy.sketches], np.float32
        ),
        probes=policy.probes,
        evidence=policy.evidence,
        by_class=by_class,
        gated=policy.gate_half_life is not None,
        probation=policy.probation,
    )


@allocating
def read_neighbours(
    table: Neighbours,
    parameters: Parameters,
    keys: FloatArray,
    predictions: FloatArray,
    now: int,
    estimates: FloatArray,
) -> None:
    """The base's and the kernels' estimates of n predictions into `estimates` (n, E, C)."""
    estimates[:, 0] = predictions
    room = scratch(table, parameters.kernels, keys.shape[0], parameters.probes)
    if len(parameters.kernels.beta_of) > 0:
        find_buckets(table, keys, room)
        hear_neighbours(table, parameters, keys, predictions, now, room, estimates)


@compiled
def find_buckets(table: Neighbours, keys: FloatArray, room: Scratch) -> None:
    """Which buckets a read of n keys looks at, into `room.wanted` and `room.found`."""
    for i in range(keys.shape[0]):
        room.found[i] = probed_buckets(table, keys[i], room.wanted[i], room.margins)


@compiled
def hear_neighbours(
    table: Neighbours,
    parameters: Parameters,
    keys: FloatArray,
    predictions: FloatArray,
    now: int,
    room: Scratch,
    estimates: FloatArray,
) -> None:
    """The kernels' estimates from the buckets that were found. While those of one key are read,
    memory brings those of the next."""
    n, kernels = keys.shape[0], parameters.kernels
    for following in range(n + 1):
        if following < n:
            for place in range(room.found[following]):
                ask_for_bucket(table, room.wanted[following, place])
        if following == 0:
            continue
        i = following - 1
        sum_neighbours(table, keys[i], room.wanted[i, : room.found[i]], now, kernels, room)
        for e in range(kernels.beta_of.shape[0]):
            gamma, into = parameters.gammas[e], estimates[i, 1 + e]
            estimate(room.sums[e], predictions[i], gamma, parameters.evidence, into)


@allocating
def read_sketch(
    table: SketchTable,
    expert: int,
    gamma: float,
    evidence: float,
    keys: FloatArray,
    predictions: FloatArray,
    now: int,
    estimates: FloatArray,
) -> None:
    """One sketch's estimates of n predictions into `estimates` (n, E, C), as its `expert`."""
    margins = np.empty(table.planes.shape[1], np.float32)
    sums = np.empty(1 + 2 * predictions.shape[1], np.float32)
    for i in range(keys.shape[0]):
        sums[:] = 0.0
        sum_sketch(table, keys[i], now, margins, sums)
        estimate(sums, predictions[i], gamma, evidence, estimates[i, expert])


@compiled
def mix(
    mixture: Mixture,
    parameters: Parameters,
    predictions: FloatArray,
    estimates: FloatArray,
    contexts: NDArray[np.int64],
    mixed: FloatArray,
) -> bool:
    """Average the estimates into `mixed` (n, C); returns whether the gate is open."""
    n, n_experts, n_classes = estimates.shape
    for i in range(n):
        if parameters.by_class:
            contexts[i] = np.argmax(predictions[i, : mixture.weights.shape[0]])
        weights = mixture.weights[contexts[i]]
        for c in range(n_classes):
            total = 0.0
            for e in range(n_experts):
                total += weights[e] * estimates[i, e, c]
            mixed[i, c] = np.float32(total)
    return not parameters.gated or gate_open(mixture, parameters.probation)


@compiled
def count_moved(predictions: FloatArray, estimates: FloatArray, n_experts: int) -> int:
    """How many of the predictions (n, C) any of the first experts behind the base moves."""
    moved = 0
    for i in range(predictions.shape[0]):
        same = True
        for e in range(1, 1 + n_experts):
            for c in range(predictions.shape[1]):
                same &= estimates[i, e, c] == predictions[i, c]
        moved += not same
    return moved


@allocating
def write_neighbours(
    table: Neighbours,
    keys: FloatArray,
    halved: HalfBits,
    labels: FloatArray,
    predictions: FloatArray,
    weights: FloatArray,
    sources: NDArray[np.uint64],
    feedback_ids: NDArray[np.uint64],
    time_ms: NDArray[np.int64],
    first: int,
    most_of_source: int,
) -> None:
    """Store a batch; an entry without weight is left out."""
    margins = np.empty(table.planes.shape[1], np.float32)
    for i in range(keys.shape[0]):
        if weights[i] > 0:
            write_neighbour(
                table,
                keys[i],
                halved[i],
                labels[i],
                predictions[i],
                weights[i],
                first + i,
                sources[i],
                feedback_ids[i],
                time_ms[i],
                most_of_source,
                margins,
            )


@allocating
def write_to_sketch(
    table: SketchTable,
    keys: FloatArray,
    labels: FloatArray,
    predictions: FloatArray,
    weights: FloatArray,
    first: int,
) -> None:
    """Add a batch to one sketch."""
    margins = np.empty(table.planes.shape[1], np.float32)
    for i in range(keys.shape[0]):
        write_sketch(table, keys[i], labels[i], predictions[i], weights[i], first + i, margins)


@compiled
def learn_weights(
    mixture: Mixture,
    losses: FloatArray,
    contexts: NDArray[np.int64],
    weights: FloatArray,
    learning_rate: float,
    share: float,
    loss_cap: float,
    gate_rate: float,
) -> None:
    """Move the mixing weights by the losses that are known."""
    for i in range(losses.shape[0]):
        known = True
        for e in range(losses.shape[1]):
            known &= not np.isnan(losses[i, e])
        if known and contexts[i] < mixture.weights.shape[0]:
            learn(
                mixture,
                losses[i],
                contexts[i],
                weights[i],
                learning_rate,
                share,
                loss_cap,
                gate_rate,
            )


# Entries over which a source's share is taken, and how many of it count in any case.
_SHARE_HALF_LIFE = 10_000.0
_ALWAYS_IN_FULL = 100.0


@compiled
def weigh_sources(
    counts: NDArray[np.float64],  # (sources + 1, 2), the last row counts all
    sources: NDArray[np.uint64],
    weights: FloatArray,
    first: int,
    largest_share: float,
) -> int:
    """Scale down what exceeds a source's share; returns how many lost more than half."""
    rate = np.log(2.0) / _SHARE_HALF_LIFE
    everyone = counts.shape[0] - 1
    rejected = 0
    for i in range(sources.shape[0]):
        number = first + i
        own = bucket_of(sources[i], everyone)
        for row in (own, everyone):
            counts[row, 0] = counts[row, 0] * np.exp(-rate * (number - counts[row, 1])) + 1.0
            counts[row, 1] = number
        allowed = max(largest_share * counts[everyone, 0], _ALWAYS_IN_FULL)
        if counts[own, 0] > allowed:
            scale = np.float32(allowed / counts[own, 0])
            weights[i] *= scale * scale
            if scale < 0.7:
                rejected += 1
    return rejected
