"""RMSNorm as one pass over its input, without gradients; its twin is `torch.nn.RMSNorm`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.traffic.cpu.compiled import compiled
from models.traffic.cpu.flat import Floats, flat_floats
from models.traffic.cpu.vector import LANES, fma, load, splat, store, total
from models.traffic.cpu.workers import share


def fused_norm(x: Tensor, weight: Tensor, *, eps: float) -> Tensor:
    """x / √(mean(x²) + ε) times the weight, where `cpu.supports` says so.

    Shapes:
        x, returns: (P, L, d_model); weight: (d_model,)
    """
    x, y = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    width = x.shape[-1]
    arrays = [flat_floats(each) for each in (x, weight, y)]

    def part(begin: int, end: int, _low: int, _high: int) -> None:
        norm_kernel(*arrays, width, np.float32(eps), begin, end)

    share(part, x.numel() // width, LANES, LANES, work=x.numel() // 4)
    return y


@compiled
def norm_kernel(
    x: Floats, weight: Floats, y: Floats, width: int, eps: np.float32, begin: int, end: int
) -> None:
    """Vectors from `begin` to `end`."""
    for row in range(begin, end):
        at = row * width
        squares = splat(np.float32(0.0))
        for c in range(0, width, LANES):
            value = load(x, at + c)
            squares = fma(value, value, squares)
        scale = splat(np.float32(1.0) / np.sqrt(total(squares) / np.float32(width) + eps))
        for c in range(0, width, LANES):
            store(y, at + c, load(x, at + c) * scale * load(weight, c))
