"""The causal depthwise convolution with SiLU as one pass over its input, in either direction."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.traffic.cpu.compiled import compiled
from models.traffic.cpu.flat import Bytes, Floats, flat_bytes, flat_floats
from models.traffic.cpu.vector import LANES, fma, load, sigmoid, silu, splat, store
from models.traffic.cpu.workers import share

WORK_PER_TAP = 0.3  # of one state of the scan


def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    reset: Tensor | None = None,
    overwrite_x: bool = False,
) -> Tensor:
    """`causal_conv`, where `cpu.supports` says so."""
    if torch.is_grad_enabled():
        apply: Any = _FusedConv.apply
        y: Tensor = apply(x, weight, bias, reset)
        return y
    x = x.contiguous()
    y = x if overwrite_x else torch.empty_like(x)
    _convolve(x, weight.T.contiguous(), bias, reset, y=y)
    return y


def _convolve(x: Tensor, taps: Tensor, bias: Tensor, reset: Tensor | None, *, y: Tensor) -> None:
    """Fill `y`, which may be `x` itself; `taps` is (K, E)."""
    rows, length, channels = x.shape
    arrays: list[Any] = [flat_floats(each) for each in (x, taps, bias, y)]
    starts = flat_bytes(reset)

    def part(begin: int, end: int, low: int, high: int) -> None:
        forward_kernel(*arrays, starts, length, channels, len(taps), begin, end, low, high)

    share(part, rows, channels, LANES, work=int(x.numel() * len(taps) * WORK_PER_TAP))


class _FusedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, reset: Tensor | None) -> Tensor:
        x, taps = x.contiguous(), weight.T.contiguous()
        y = torch.empty_like(x)
        _convolve(x, taps, bias, reset, y=y)
        ctx.save_for_backward(x, taps, bias, reset)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, taps, bias, reset = ctx.saved_tensors
        rows, length, channels = x.shape
        dx = torch.zeros_like(x)
        arrays: list[Any] = [flat_floats(each) for each in (x, taps, bias, dy, dx)]
        starts = flat_bytes(reset)

        def part(begin: int, end: int, low: int, high: int) -> Tensor:
            sums: Tensor = x.new_zeros(len(taps) + 1, channels)
            backward_kernel(
                *arrays, flat_floats(sums), starts,
                length, channels, len(taps), begin, end, low, high,
            )  # fmt: skip
            return sums

        work = int(2 * x.numel() * len(taps) * WORK_PER_TAP)
        sums: Tensor = torch.stack(share(part, rows, channels, LANES, work=work)).sum(
            0
        )  # (K + 1, E)
        return dx, sums[:-1].T, sums[-1], None


@compiled
def forward_kernel(
    x: Floats, taps: Floats, bias: Floats, y: Floats, starts: Bytes,
    length: int, channels: int, width: int, begin: int, end: int, low: int, high: int,
) -> None:  # fmt: skip
    """Rows from `begin` to `end`, channels from `low` to `high`.

    The last step first, which no other one looks at: `y` may be `x`.
    """
    since = np.empty(length, np.int64)  # steps of the same flow before this one
    for p in range(begin, end):
        for t in range(length):
            fresh = t == 0 or (starts.size > 0 and starts[p * length + t] != 0)
            since[t] = 0 if fresh else since[t - 1] + 1
        for t in range(length - 1, -1, -1):
            row = p * length + t
            reach = min(since[t], width - 1)
            for e in range(low, high, LANES):
                before = _before(x, taps, bias, row, e, channels, width, reach)
                store(y, row * channels + e, silu(before))


@compiled
def backward_kernel(
    x: Floats, taps: Floats, bias: Floats, dy: Floats, dx: Floats, sums: Floats, starts: Bytes,
    length: int, channels: int, width: int, begin: int, end: int, low: int, high: int,
) -> None:  # fmt: skip
    """Add to `dx` and to `sums` (K + 1, E), which has the taps' gradients and then the bias's."""
    one = splat(np.float32(1.0))
    for p in range(begin, end):
        since = 0
        for t in range(length):
            row = p * length + t
            if starts.size > 0 and starts[row] != 0:
                since = 0
            reach = min(since, width - 1)
            since += 1
            for e in range(low, high, LANES):
                before = _before(x, taps, bias, row, e, channels, width, reach)
                open_ = sigmoid(before)
                slope = fma(before * open_, one - open_, open_)
                gradient = load(dy, row * channels + e) * slope
                for lag in range(reach + 1):
                    at = (row - lag) * channels + e
                    tap = (width - 1 - lag) * channels + e
                    store(dx, at, fma(gradient, load(taps, tap), load(dx, at)))
                    store(sums, tap, fma(gradient, load(x, at), load(sums, tap)))
                at = width * channels + e
                store(sums, at, load(sums, at) + gradient)


@compiled
def _before(
    x: Floats, taps: Floats, bias: Floats, row: int, e: int, channels: int, width: int, reach: int
) -> Any:
    """What SiLU is taken of, for 16 channels at one step."""
    before: Any = load(bias, e)
    for lag in range(reach + 1):
        tap = load(taps, (width - 1 - lag) * channels + e)
        before = fma(load(x, (row - lag) * channels + e), tap, before)
    return before
