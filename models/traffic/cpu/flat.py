"""Tensors as the flat arrays that the kernels take; one array type means one compilation."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


def flat_floats(tensor: Tensor | None) -> Floats:
    """The tensor's own memory where it is contiguous, a copy where not; empty for None."""
    if tensor is None:
        return np.empty(0, np.float32)
    flat: Floats = tensor.detach().contiguous().view(-1).numpy()
    return flat


def flat_bytes(mask: Tensor | None) -> Bytes:
    """A mask as zeros and ones; empty for None."""
    if mask is None:
        return np.empty(0, np.uint8)
    flat: Bytes = mask.to(torch.uint8).contiguous().view(-1).numpy()
    return flat
