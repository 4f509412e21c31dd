"""Causal depthwise convolution with SiLU: each channel sees its own last K steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.traffic import cpu
from models.traffic.cpu.conv import fused_conv


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    reset: Tensor | None = None,
    overwrite_x: bool = False,
) -> Tensor:
    """silu(bias + Σ_k weight[:, K-1-k] x_{t-k}), where no tap reaches behind a flow's first step.

    With `overwrite_x` and no gradients the output may take the memory of `x`.

    Shapes (P sequences, L steps, E channels):
        x, returns: (P, L, E); weight: (E, K); bias: (E,)
        reset: (P, L) bool, true where a new flow begins
    """
    if cpu.supports(x, weight, bias):
        return fused_conv(x, weight, bias, reset=reset, overwrite_x=overwrite_x)
    return conv_by_taps(x, weight, bias, reset=reset)


def conv_by_taps(x: Tensor, weight: Tensor, bias: Tensor, *, reset: Tensor | None = None) -> Tensor:
    """`causal_conv` in torch alone, for any device and dtype."""
    taps, length = weight.shape[1], x.shape[1]
    padded = functional.pad(x, (0, 0, taps - 1, 0))  # (P, K-1+L, E)
    y = bias + x * weight[:, -1]
    same_flow = None if reset is None else torch.ones_like(reset)
    for lag in range(1, taps):
        tap = padded[:, taps - 1 - lag : taps - 1 - lag + length] * weight[:, -1 - lag]
        if reset is not None and same_flow is not None:
            # A step that is `lag` back is of this flow unless one of the steps since began one.
            begun = functional.pad(reset, (lag - 1, 0))[:, :length]
            same_flow = same_flow & ~begun
            tap = tap.masked_fill(~same_flow[:, :, None], 0)
        y = y + tap
    return functional.silu(y)


def conv_step(x: Tensor, weight: Tensor, bias: Tensor, *, state: Tensor) -> tuple[Tensor, Tensor]:
    """One step: output and the new state; the old one is left alone.

    Shapes:
        x: (P, E); state: (P, K-1, E); returns: (P, E), (P, K-1, E)
    """
    window = torch.cat([state, x[:, None]], dim=1)  # (P, K, E)
    return functional.silu((window * weight.T).sum(1) + bias), window[:, 1:]
