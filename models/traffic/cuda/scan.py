"""The selective scan's recurrence as one kernel each way; the rest is torch.

A program has one sequence and a block of channels, and keeps their states in registers. As in
`cpu/scan.py`, every 16th state is kept where a gradient is wanted, and the backward kernel makes
the others anew: the states of 16 steps lie in a scratch of (P, 16, N, E), which stays in the L2
cache. Softplus, gate and the skip by D are left to torch and its autograd.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

MARK = 16
BLOCK_E = 32


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
) -> tuple[Tensor, Tensor]:
    """`selective_scan`, where `supports` says so; also gives the last state."""
    step = delta if delta_bias is None else delta + delta_bias
    if delta_softplus:
        step = functional.softplus(step)
    if h0 is None:
        h0 = u.new_zeros(u.shape[0], A.shape[1], u.shape[2])
    apply: Any = _FusedScan.apply
    y, last = apply(u, step, A.T, B, C, h0, reset)
    y = y + u * D
    return (y if z is None else y * functional.silu(z)), last


class _FusedScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor,
        reset: Tensor | None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        rows, length, channels = u.shape
        states = A.shape[0]
        inputs = [each.contiguous() for each in (u, step, A, B, C, h0)]
        starts = None if reset is None else reset.to(torch.int8).contiguous()
        y, last = torch.empty_like(inputs[0]), torch.empty_like(inputs[5])
        keep = any(ctx.needs_input_grad)
        marks = u.new_empty(rows, -(-length // MARK), states, channels) if keep else None
        forward_kernel[(rows, triton.cdiv(channels, BLOCK_E))](
            *inputs, starts, y, last, marks, length, channels, states,
            MARK=MARK, BLOCK_E=BLOCK_E, BLOCK_N=triton.next_power_of_2(states),
            RESETS=starts is not None, KEEP=keep, num_warps=2,
        )  # fmt: skip
        if keep:
            ctx.save_for_backward(*inputs[:5], starts, marks)
        return y, last

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dlast: Tensor) -> tuple[Tensor | None, ...]:
        u, step, A, B, C, starts, marks = ctx.saved_tensors
        rows, length, channels = u.shape
        states = A.shape[0]
        blocks = triton.cdiv(channels, BLOCK_E)
        du, dstep, dh0 = torch.empty_like(u), torch.empty_like(u), torch.empty_like(dlast)
        # Summed here and not by atomic additions, so that a seed gives the same model.
        dB, dC = (u.new_empty(blocks, rows, length, states) for _ in range(2))
        dA = u.new_empty(rows, states, channels)
        scratch = u.new_empty(rows, MARK, states, channels)
        backward_kernel[(rows, blocks)](
            u, step, A, B, C, starts, marks, dy.contiguous(), dlast.contiguous(), scratch,
            du, dstep, dA, dB, dC, dh0, length, channels, states,
            MARK=MARK, BLOCK_E=BLOCK_E, BLOCK_N=triton.next_power_of_2(states),
            RESETS=starts is not None, num_warps=2,
        )  # fmt: skip
        return du, dstep, dA.sum(0), dB.sum(0), dC.sum(0), dh0, None


LOG2_E = tl.constexpr(1 / math.log(2))


@triton.jit  # type: ignore[untyped-decorator]
def forward_kernel(  # type: ignore[no-untyped-def]
    u, step, A, B, C, h0, starts, y, last, marks, length, channels, states,
    MARK: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr,
    RESETS: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """One sequence, one block of channels, all steps."""
    p = tl.program_id(0).to(tl.int64)
    e = tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    there_e, there_n = e < channels, n < states
    tile = n[:, None] * channels + e[None, :]  # (N, E)
    there = there_n[:, None] & there_e[None, :]
    rate = tl.load(A + tile, mask=there, other=0.0) * LOG2_E
    h = tl.load(h0 + p * states * channels + tile, mask=there, other=0.0)
    chunks = (length + MARK - 1) // MARK
    for t in range(0, length):
        row = p * length + t
        if KEEP:  # noqa: SIM102  (alone: decided when the kernel is compiled)
            if t % MARK == 0:
                mark = (p * chunks + t // MARK) * states * channels
                tl.store(marks + mark + tile, h, mask=there)
        dt = tl.load(step + row * channels + e, mask=there_e, other=0.0)
        x = tl.load(u + row * channels + e, mask=there_e, other=0.0)
        b = tl.load(B + row * states + n, mask=there_n, other=0.0)
        c = tl.load(C + row * states + n, mask=there_n, other=0.0)
        decay = tl.exp2(dt[None, :] * rate)
        if RESETS:
            decay = tl.where(tl.load(starts + row) != 0, 0.0, decay)
        h = decay * h + b[:, None] * (dt * x)[None, :]
        tl.store(y + row * channels + e, tl.sum(h * c[:, None], axis=0), mask=there_e)
    tl.store(last + p * states * channels + tile, h, mask=there)


@triton.jit  # type: ignore[untyped-decorator]
def backward_kernel(  # type: ignore[no-untyped-def]
    u, step, A, B, C, starts, marks, dy, dlast, scratch, du, dstep, dA, dB, dC, dh0,
    length, channels, states,
    MARK: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr, RESETS: tl.constexpr,
):  # fmt: skip
    """The same sequence and channels, backwards."""
    p = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    rows = tl.num_programs(0)
    e = block * BLOCK_E + tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    there_e, there_n = e < channels, n < states
    tile = n[:, None] * channels + e[None, :]  # (N, E)
    there = there_n[:, None] & there_e[None, :]
    a = tl.load(A + tile, mask=there, other=0.0)
    carry = tl.load(dlast + p * states * channels + tile, mask=there, other=0.0)
    da = tl.zeros([BLOCK_N, BLOCK_E], tl.float32)
    chunks = (length + MARK - 1) // MARK
    for back_chunk in range(0, chunks):
        chunk = chunks - 1 - back_chunk
        first = chunk * MARK
        size = tl.minimum(MARK, length - first)
        h = tl.load(marks + (p * chunks + chunk) * states * channels + tile, mask=there, other=0.0)
        for k in range(0, size):
            row = p * length + first + k
            tl.store(scratch + (p * MARK + k) * states * channels + tile, h, mask=there)
            dt = tl.load(step + row * channels + e, mask=there_e, other=0.0)
            x = tl.load(u + row * channels + e, mask=there_e, other=0.0)
            b = tl.load(B + row * states + n, mask=there_n, other=0.0)
            decay = tl.exp2(dt[None, :] * (a * LOG2_E))
            if RESETS:
                decay = tl.where(tl.load(starts + row) != 0, 0.0, decay)
            h = decay * h + b[:, None] * (dt * x)[None, :]
        # What one thread wrote, another may read.
        tl.debug_barrier()
        for back in range(0, size):
            k = size - 1 - back
            row = p * length + first + k
            before = tl.load(
                scratch + (p * MARK + k) * states * channels + tile, mask=there, other=0.0
            )
            dt = tl.load(step + row * channels + e, mask=there_e, other=0.0)
            x = tl.load(u + row * channels + e, mask=there_e, other=0.0)
            b = tl.load(B + row * states + n, mask=there_n, other=0.0)
            c = tl.load(C + row * states + n, mask=there_n, other=0.0)
            gradient = tl.load(dy + row * channels + e, mask=there_e, other=0.0)
            decay = tl.exp2(dt[None, :] * (a * LOG2_E))
            if RESETS:
                decay = tl.where(tl.load(starts + row) != 0, 0.0, decay)
            written = dt * x
            h = decay * before + b[:, None] * written[None, :]
            of_state = carry + c[:, None] * gradient[None, :]
            part = (block * rows + p) * length * states + (first + k) * states + n
            tl.store(dC + part, tl.sum(h * gradient[None, :], axis=1), mask=there_n)
            tl.store(dB + part, tl.sum(of_state * written[None, :], axis=1), mask=there_n)
            of_input = tl.sum(of_state * b[:, None], axis=0)
            carry = of_state * decay
            through = carry * before
            da += through * dt[None, :]
            of_step = x * of_input + tl.sum(through * a, axis=0)
            tl.store(du + row * channels + e, dt * of_input, mask=there_e)
            tl.store(dstep + row * channels + e, of_step, mask=there_e)
        tl.debug_barrier()
    tl.store(dA + p * states * channels + tile, da, mask=there)
    tl.store(dh0 + p * states * channels + tile, carry, mask=there)
