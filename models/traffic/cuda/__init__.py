"""The selective scan as Triton kernels for CUDA devices, forward and backward.

`scan.py` imports Triton, and is itself imported only where `supports` says so.
"""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor


def supports(x: Tensor) -> bool:
    """Whether the kernels can take inputs like `x` (P, L, E)."""
    return x.is_cuda and x.dtype == torch.float32 and x.numel() > 0 and _has_triton()


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
