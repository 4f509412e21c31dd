"""One token through a whole block of Mamba-1 as one kernel: norm, mixer and the sum with its input.

A step by separate torch operations takes as long for one flow as for fifty: some forty calls a
block. Here a flow goes through all of it while its vectors are in the cache.

Arrays are flat inside the kernel, and vectors of a flow stand in `scratch`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from models.traffic.cpu.compiled import compiled
from models.traffic.cpu.flat import Floats, flat_floats
from models.traffic.cpu.vector import (
    LANES,
    LOG2_E,
    broadcast,
    exp2,
    fma,
    load,
    sigmoid,
    softplus,
    splat,
    store,
    total,
)  # fmt: skip
from models.traffic.cpu.workers import share


class BlockWeights(NamedTuple):
    """A block's parameters.

    Shapes (E channels, N states, K taps, R the rank of the step size):
        norm: (d_model,); enter: (2 E, d_model); conv: (E, K); conv_bias, step_bias, D: (E,)
        select: (R + 2 N, E); step_size: (E, R); A_log: (E, N); leave: (d_model, E)
    """

    norm: Tensor
    enter: Tensor
    conv: Tensor
    conv_bias: Tensor
    select: Tensor
    step_size: Tensor
    step_bias: Tensor
    A_log: Tensor
    D: Tensor
    leave: Tensor


def fused_block_step(
    x: Tensor, weights: BlockWeights, conv: Tensor, scan: Tensor, *, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x + mixer(RMSNorm(x)) for the next token of each of P flows, and the states after it; without
    gradients, and where `supports` says so of `x` and of the channels.

    Shapes:
        x, first result: (P, d_model); conv: (P, K-1, E); scan: (P, N, E)
    """
    flows, d_model = x.shape
    channels, taps = weights.conv.shape
    states = weights.A_log.shape[1]
    rank = weights.step_size.shape[1]
    out, conv_after, scan_after = (
        torch.empty_like(each, memory_format=torch.contiguous_format) for each in (x, conv, scan)
    )
    arrays = [flat_floats(each) for each in (x, *weights, conv, scan, out, conv_after, scan_after)]

    def part(begin: int, end: int, _low: int, _high: int) -> None:
        block_step_kernel(*arrays, d_model, channels, states, rank, taps, eps, begin, end)

    share(part, flows, LANES, LANES, work=flows * channels * (states + d_model))
    return out, conv_after, scan_after


@compiled
def block_step_kernel(
    x: Floats, norm: Floats, enter: Floats, conv: Floats, conv_bias: Floats, select: Floats,
    step_size: Floats, step_bias: Floats, A_log: Floats, D: Floats, leave: Floats,
    window: Floats, state: Floats, out: Floats, window_after: Floats, state_after: Floats,
    d_model: int, channels: int, states: int, rank: int, taps: int, eps: float,
    begin: int, end: int,
) -> None:  # fmt: skip
    """Flows from `begin` to `end`."""
    selected = rank + 2 * states
    tap = np.empty(taps * channels, np.float32)  # `conv`, a tap's channels side by side
    rate = np.empty(states * channels, np.float32)  # exp(ΔA) = 2^(Δ rate), likewise
    for e in range(channels):
        for k in range(taps):
            tap[k * channels + e] = conv[e * taps + k]
        for n in range(states):
            rate[n * channels + e] = A_log[e * states + n]
    for i in range(0, states * channels, LANES):
        store(rate, i, exp2(load(rate, i) * splat(LOG2_E)) * splat(-LOG2_E))
    normed = np.empty(d_model, np.float32)
    u = np.empty(channels, np.float32)
    delta = np.empty(channels, np.float32)
    y = np.empty(channels, np.float32)
    gate = np.empty(channels, np.float32)
    low = np.empty(selected, np.float32)  # what the step size is made of, then B, then C
    for p in range(begin, end):
        own = p * d_model
        squares = splat(np.float32(0.0))
        for k in range(0, d_model, LANES):
            squares = fma(load(x, own + k), load(x, own + k), squares)
        scale = splat(np.float32(1.0 / np.sqrt(total(squares) / d_model + eps)))
        for k in range(0, d_model, LANES):
            store(normed, k, load(x, own + k) * scale * load(norm, k))
        for e in range(channels):
            u[e] = _dot(enter, e * d_model, normed, d_model)
            gate[e] = _dot(enter, (channels + e) * d_model, normed, d_model)
        past = p * (taps - 1) * channels
        for c in range(0, channels, LANES):
            new = load(u, c)
            mixed = fma(new, load(tap, (taps - 1) * channels + c), load(conv_bias, c))
            for k in range(taps - 1):
                old = load(window, past + k * channels + c)
                mixed = fma(old, load(tap, k * channels + c), mixed)
                if k > 0:
                    store(window_after, past + (k - 1) * channels + c, old)
            if taps > 1:
                store(window_after, past + (taps - 2) * channels + c, new)
            store(u, c, mixed * sigmoid(mixed))
        for s in range(selected):
            low[s] = _dot(select, s * channels, u, channels)
        for e in range(channels):
            step = step_bias[e]
            for r in range(rank):
                step += step_size[e * rank + r] * low[r]
            delta[e] = step
        before = p * states * channels
        for c in range(0, channels, LANES):
            dt, entering = softplus(load(delta, c)), load(u, c)
            written = dt * entering
            said = load(D, c) * entering
            for n in range(states):
                i = n * channels + c
                decay = exp2(dt * load(rate, i))
                new = fma(decay, load(state, before + i), written * broadcast(low, rank + n))
                store(state_after, before + i, new)
                said = fma(new, broadcast(low, rank + states + n), said)
            open_ = load(gate, c)
            store(y, c, said * open_ * sigmoid(open_))
        for k in range(d_model):
            out[own + k] = x[own + k] + _dot(leave, k * channels, y, channels)


@compiled
def _dot(weights: Floats, row: int, vector: Floats, size: int) -> float:
    found = splat(np.float32(0.0))
    for k in range(0, size, LANES):
        found = fma(load(weights, row + k), load(vector, k), found)
    return float(total(found))
