"""Causal depthwise convolution with SiLU: each channel sees its own last K steps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def causal_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    before: Tensor | None = None,
    reset: Tensor | None = None,
) -> Tensor:
    """silu(bias + Σ_k weight[:, K-1-k] x_{t-k}), where no tap reaches behind a flow's first step.

    Shapes (P sequences, L steps, E channels):
        x, returns: (P, L, E); weight: (E, K); bias: (E,)
        before: (P, K-1, E), the inputs before the first step; zero where it is left out
        reset: (P, L) bool, true where a new flow begins
    """
    taps = weight.shape[1]
    length = x.shape[1]
    if before is None:
        before = x.new_zeros(x.shape[0], taps - 1, x.shape[2])
    padded = torch.cat([before, x], dim=1)  # (P, K-1+L, E)
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


def conv_state(x: Tensor, taps: int) -> Tensor:
    """The last K-1 inputs of one flow, zero where it has fewer: what `conv_step` goes on from.

    Shapes:
        x: (P, L, E); returns: (P, K-1, E)
    """
    return functional.pad(x, (0, 0, taps - 1, 0))[:, x.shape[1] :]


def conv_step(x: Tensor, weight: Tensor, bias: Tensor, *, state: Tensor) -> tuple[Tensor, Tensor]:
    """One step: output and the new state; the old one is left alone.

    Shapes:
        x: (P, E); state: (P, K-1, E); returns: (P, E), (P, K-1, E)
    """
    window = torch.cat([state, x[:, None]], dim=1)  # (P, K, E)
    return functional.silu(torch.einsum("pke,ek->pe", window, weight) + bias), window[:, 1:]
