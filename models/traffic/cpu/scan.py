"""The selective scan as one kernel: no tensor of all states, in either direction.

A block of channels goes through all steps with its states in the cache. Every 16th state is kept
(`marks`) where a gradient is wanted; the backward kernel makes the others anew, 16 at a time.

Arrays are flat inside the kernels: at(p, t, e) = (p L + t) E + e.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.traffic.cpu.compiled import compiled
from models.traffic.cpu.flat import Bytes, Floats, flat_bytes, flat_floats
from models.traffic.cpu.vector import (
    LANES,
    LN_2,
    LOG2_E,
    broadcast,
    exp2,
    falling_exp2,
    fma,
    load,
    sigmoid,
    silu,
    softplus,
    splat,
    store,
    total,
)  # fmt: skip
from models.traffic.cpu.workers import share

MARK = 16  # steps from one kept state to the next
FORWARD_WIDTH = 256
BACKWARD_WIDTH = 64  # 16 steps of their states and decays are 136 kB, of the second-level cache


def fused_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    *,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = True,
    h0: Tensor | None = None,
    reset: Tensor | None = None,
    overwrite_u: bool = False,
) -> tuple[Tensor, Tensor]:
    """`selective_scan`, where `supports` says so; also gives the last state."""
    if delta_bias is None:
        delta_bias = torch.zeros_like(D)
    if torch.is_grad_enabled():
        apply: Any = _FusedScan.apply
        y, last = apply(u, delta, A, B, C, D, z, delta_bias, h0, reset, delta_softplus)
        return y, last
    inputs = _Inputs.laid_out(u, delta, A, B, C, D, z, delta_bias)
    y = inputs.u if overwrite_u else torch.empty_like(inputs.u)
    return y, _scanned(inputs, h0, reset, delta_softplus, y=y, marks=u.new_empty(0))


class _Inputs(NamedTuple):
    """What both kernels read, contiguous; `rates` is (N, E): exp(ΔA) = 2^(Δ rates)."""

    u: Tensor
    delta: Tensor
    rates: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor | None
    bias: Tensor

    @classmethod
    def laid_out(
        cls, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
        z: Tensor | None, bias: Tensor,
    ) -> _Inputs:  # fmt: skip
        return cls(
            u.contiguous(), delta.contiguous(), (A.detach().T * float(LOG2_E)).contiguous(),
            B.contiguous(), C.contiguous(), D, None if z is None else z.contiguous(), bias,
        )  # fmt: skip


def _scanned(
    inputs: _Inputs, h0: Tensor | None, reset: Tensor | None, softplus_: bool,
    *, y: Tensor, marks: Tensor,
) -> Tensor:  # fmt: skip
    """Fill `y`, which may be `u` itself, and `marks` if it has room; gives the last state."""
    rows, length, channels = inputs.u.shape
    states = len(inputs.rates)
    last = (
        inputs.u.new_zeros(rows, states, channels)
        if h0 is None
        else h0.detach().clone(memory_format=torch.contiguous_format)
    )
    arrays: list[Any] = [flat_floats(each) for each in inputs]
    starts = flat_bytes(reset)
    results: list[Any] = [flat_floats(each) for each in (y, last, marks)]

    def part(begin: int, end: int, low: int, high: int) -> None:
        forward_kernel(
            *arrays, starts, *results, length, channels, states, softplus_, begin, end, low, high
        )

    share(part, rows, channels, LANES, work=inputs.u.numel() * states)
    return last


class _FusedScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
        z: Tensor | None, bias: Tensor, h0: Tensor | None, reset: Tensor | None, softplus_: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        rows, length, channels = u.shape
        inputs = _Inputs.laid_out(u, delta, A, B, C, D, z, bias)
        y = torch.empty_like(inputs.u)
        marks = u.new_empty((rows, -(-length // MARK), A.shape[1], channels))
        last = _scanned(inputs, h0, reset, softplus_, y=y, marks=marks)
        ctx.save_for_backward(*inputs, marks, reset)
        ctx.softplus, ctx.has_h0 = softplus_, h0 is not None
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, marks, reset = ctx.saved_tensors
        u, _, rates, _, _, _, z, _ = inputs
        rows, length, channels = u.shape
        states = rates.shape[0]
        du, ddelta = torch.empty_like(u), torch.empty_like(u)
        dz = None if z is None else torch.empty_like(u)
        dh = dlast.contiguous().clone()
        arrays: list[Any] = [flat_floats(each) for each in inputs]
        starts = flat_bytes(reset)
        results: list[Any] = [flat_floats(each) for each in (marks, dy, du, ddelta, dz, dh)]

        def part(begin: int, end: int, low: int, high: int) -> tuple[slice, Tensor, Tensor, Tensor]:
            of_steps = u.new_zeros(2, end - begin, length, states)
            of_rates, of_vectors = u.new_zeros(states, channels), u.new_zeros(2, channels)
            backward_kernel(
                *arrays, starts, *results, *map(flat_floats, (of_steps, of_rates, of_vectors)),
                length, channels, states, ctx.softplus, begin, end, low, high,
            )  # fmt: skip
            return slice(begin, end), of_steps, of_rates, of_vectors

        # Parts that share channels add up for B and C, those that share rows for the rest.
        dBC = u.new_zeros(2, rows, length, states)
        dA, dvectors = u.new_zeros(states, channels), u.new_zeros(2, channels)
        work = 4 * u.numel() * states
        for span, of_steps, of_rates, of_vectors in share(part, rows, channels, LANES, work=work):
            dBC[:, span] += of_steps
            dA += of_rates
            dvectors += of_vectors
        return (
            du, ddelta, dA.T, dBC[0], dBC[1], dvectors[0], dz, dvectors[1],
            dh if ctx.has_h0 else None, None, None,
        )  # fmt: skip


@compiled
def _decay(exponent: Any, softplus_: bool) -> Any:
    """2^exponent. Behind a softplus Δ is positive, and the exponent negative as A is."""
    return falling_exp2(exponent) if softplus_ else exp2(exponent)


@compiled
def forward_kernel(
    u: Floats, delta: Floats, rates: Floats, B: Floats, C: Floats, D: Floats, z: Floats,
    bias: Floats, starts: Bytes, y: Floats, state: Floats, marks: Floats,
    length: int, channels: int, states: int, softplus_: bool,
    begin: int, end: int, low: int, high: int,
) -> None:  # fmt: skip
    """Rows from `begin` to `end`, channels from `low` to `high`.

    `state` has the states before the first step, and then those after the last. `y` may be `u`.

    A softplus and a gate are long chains of operations, a division in each. In front of a loop over
    states they would keep the processor from starting it, so they have passes of their own.
    """
    h = np.empty(states * FORWARD_WIDTH, np.float32)
    rate = np.empty(states * FORWARD_WIDTH, np.float32)
    step = np.empty(FORWARD_WIDTH, np.float32)  # Δ
    zero = splat(np.float32(0.0))
    for left in range(low, high, FORWARD_WIDTH):
        width = min(FORWARD_WIDTH, high - left)
        for n in range(states):
            for c in range(0, width, LANES):
                store(rate, c * states + n * LANES, load(rates, n * channels + left + c))
        for p in range(begin, end):
            own = p * states * channels + left
            for n in range(states):
                for c in range(0, width, LANES):
                    store(h, c * states + n * LANES, load(state, own + n * channels + c))
            for t in range(length):
                row = p * length + t
                if marks.size > 0 and t % MARK == 0:
                    mark = (p * ((length + MARK - 1) // MARK) + t // MARK) * states * channels
                    for n in range(states):
                        for c in range(0, width, LANES):
                            value = load(h, c * states + n * LANES)
                            store(marks, mark + n * channels + left + c, value)
                if starts.size > 0 and starts[row] != 0:
                    for i in range(0, states * FORWARD_WIDTH, LANES):
                        store(h, i, zero)
                for c in range(0, width, LANES):
                    at = row * channels + left + c
                    dt = load(delta, at) + load(bias, left + c)
                    if softplus_:
                        dt = softplus(dt)
                    store(step, c, dt)
                for c in range(0, width, LANES):
                    x = load(u, row * channels + left + c)
                    dt = load(step, c)
                    written = dt * x
                    out = load(D, left + c) * x
                    for n in range(states):
                        i = c * states + n * LANES
                        decay = _decay(dt * load(rate, i), softplus_)
                        new = fma(decay, load(h, i), written * broadcast(B, row * states + n))
                        store(h, i, new)
                        out = fma(new, broadcast(C, row * states + n), out)
                    store(y, row * channels + left + c, out)
                if z.size > 0:
                    for c in range(0, width, LANES):
                        at = row * channels + left + c
                        store(y, at, load(y, at) * silu(load(z, at)))
            for n in range(states):
                for c in range(0, width, LANES):
                    store(state, own + n * channels + c, load(h, c * states + n * LANES))


@compiled
def backward_kernel(
    u: Floats, delta: Floats, rates: Floats, B: Floats, C: Floats, D: Floats, z: Floats,
    bias: Floats, starts: Bytes, marks: Floats, dy: Floats, du: Floats,
    ddelta: Floats, dz: Floats, dstate: Floats, dBC: Floats, dA: Floats, dvectors: Floats,
    length: int, channels: int, states: int, softplus_: bool,
    begin: int, end: int, low: int, high: int,
) -> None:  # fmt: skip
    """The same rows and channels, backwards.

    `dstate` has the gradient of the last states, and then that of the first.
    `dBC`, `dA` and `dvectors` (of D and of the bias) are added to; row 0 of `dBC` is row `begin`.
    """
    block = states * BACKWARD_WIDTH
    h = np.empty((MARK + 1) * block, np.float32)  # the state before each step of a chunk, and after
    decays = np.empty(MARK * block, np.float32)
    steps = np.empty(MARK * BACKWARD_WIDTH, np.float32)  # Δ
    outs = np.empty(MARK * BACKWARD_WIDTH, np.float32)  # y before the gate
    rate = np.empty(block, np.float32)
    carry = np.empty(block, np.float32)  # the gradient of the state, on its way back
    drate = np.empty(block, np.float32)
    dout = np.empty(BACKWARD_WIDTH, np.float32)  # of y before the gate
    through_decay = np.empty(BACKWARD_WIDTH, np.float32)  # of Δ, divided by ln 2
    through_input = np.empty(BACKWARD_WIDTH, np.float32)  # of Δ u
    zero, one, ln_2 = splat(np.float32(0.0)), splat(np.float32(1.0)), splat(LN_2)
    chunks = (length + MARK - 1) // MARK
    dC = (end - begin) * length * states  # where C's part of dBC begins
    for left in range(low, high, BACKWARD_WIDTH):
        width = min(BACKWARD_WIDTH, high - left)
        for n in range(states):
            for c in range(0, width, LANES):
                store(rate, c * states + n * LANES, load(rates, n * channels + left + c))
                store(drate, c * states + n * LANES, zero)
        for p in range(begin, end):
            own = p * states * channels + left
            for n in range(states):
                for c in range(0, width, LANES):
                    store(carry, c * states + n * LANES, load(dstate, own + n * channels + c))
            for chunk in range(chunks - 1, -1, -1):
                first = chunk * MARK
                size = min(MARK, length - first)
                mark = (p * chunks + chunk) * states * channels + left
                for n in range(states):
                    for c in range(0, width, LANES):
                        store(h, c * states + n * LANES, load(marks, mark + n * channels + c))
                for k in range(size):
                    row = p * length + first + k
                    fresh = starts.size > 0 and starts[row] != 0
                    for c in range(0, width, LANES):
                        dt = load(delta, row * channels + left + c) + load(bias, left + c)
                        if softplus_:
                            dt = softplus(dt)
                        store(steps, k * BACKWARD_WIDTH + c, dt)
                    for c in range(0, width, LANES):
                        x = load(u, row * channels + left + c)
                        dt = load(steps, k * BACKWARD_WIDTH + c)
                        written = dt * x
                        out = load(D, left + c) * x
                        for n in range(states):
                            i = k * block + c * states + n * LANES
                            decay = _decay(dt * load(rate, c * states + n * LANES), softplus_)
                            if fresh:
                                decay = zero
                            store(decays, i, decay)
                            new = fma(decay, load(h, i), written * broadcast(B, row * states + n))
                            store(h, i + block, new)
                            out = fma(new, broadcast(C, row * states + n), out)
                        store(outs, k * BACKWARD_WIDTH + c, out)
                for k in range(size - 1, -1, -1):
                    row = p * length + first + k
                    for c in range(0, width, LANES):
                        at = row * channels + left + c
                        gradient = load(dy, at)
                        if z.size > 0:
                            gate = load(z, at)
                            share_ = sigmoid(gate)
                            silu = gate * share_
                            out = load(outs, k * BACKWARD_WIDTH + c)
                            slope = fma(silu, one - share_, share_)
                            store(dz, at, gradient * out * slope)
                            gradient = gradient * silu
                        store(dout, c, gradient)
                        store(through_decay, c, zero)
                        store(through_input, c, zero)
                    for n in range(states):
                        b, c_ = broadcast(B, row * states + n), broadcast(C, row * states + n)
                        of_b, of_c = zero, zero
                        for c in range(0, width, LANES):
                            j = c * states + n * LANES
                            i = k * block + j
                            gradient = load(dout, c)
                            dt = load(steps, k * BACKWARD_WIDTH + c)
                            of_state = fma(gradient, c_, load(carry, j))
                            of_c = fma(gradient, load(h, i + block), of_c)
                            written = dt * load(u, row * channels + left + c)
                            of_b = fma(of_state, written, of_b)
                            store(through_input, c, fma(of_state, b, load(through_input, c)))
                            back = of_state * load(decays, i)
                            store(carry, j, back)
                            back = back * load(h, i)
                            store(drate, j, fma(back, dt, load(drate, j)))
                            decayed = fma(back, load(rate, j), load(through_decay, c))
                            store(through_decay, c, decayed)
                        at = ((p - begin) * length + first + k) * states + n
                        dBC[at] += total(of_b)
                        dBC[dC + at] += total(of_c)
                    for c in range(0, width, LANES):
                        at = row * channels + left + c
                        x, gradient = load(u, at), load(dout, c)
                        dt = load(steps, k * BACKWARD_WIDTH + c)
                        of_input = load(through_input, c)
                        store(du, at, fma(load(D, left + c), gradient, dt * of_input))
                        of_dt = fma(x, of_input, ln_2 * load(through_decay, c))
                        if softplus_:
                            shifted = load(delta, at) + load(bias, left + c)
                            of_dt = of_dt * sigmoid(shifted)
                        store(ddelta, at, of_dt)
                        here = left + c
                        store(dvectors, here, fma(gradient, x, load(dvectors, here)))
                        here += channels
                        store(dvectors, here, load(dvectors, here) + of_dt)
            for n in range(states):
                for c in range(0, width, LANES):
                    store(dstate, own + n * channels + c, load(carry, c * states + n * LANES))
        for n in range(states):
            for c in range(0, width, LANES):
                # A's: the rates' gradient times log2 e, and Δ ln 2 is what it was taken with.
                store(dA, n * channels + left + c, load(drate, c * states + n * LANES))
