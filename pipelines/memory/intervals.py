"""Paired gains of one way over another along a stream, with an interval."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BLOCKS = 50
CONFIDENT = 1.96  # standard errors


@dataclass(frozen=True)
class Gain:
    """Mean and interval; `lower` above 0 is a certain gain."""

    mean: float
    lower: float
    upper: float


def over_blocks(gain: Callable[[slice], float], n: int) -> Gain:
    """The mean of `gain` over blocks of time and its 95 % interval.

    Errors come in bursts: blocks of time, not events, are what can be resampled. A block for which
    `gain` is NaN is left out.
    """
    edges = np.linspace(0, n, min(BLOCKS, max(n, 1)) + 1).astype(np.int64)
    found = np.array([gain(slice(int(a), int(b))) for a, b in itertools.pairwise(edges)])
    values = found[np.isfinite(found)]
    if len(values) < 2:
        return Gain(float(values.mean()) if len(values) else 0.0, -np.inf, np.inf)
    mean, half = float(values.mean()), CONFIDENT * float(values.std(ddof=1) / np.sqrt(len(values)))
    return Gain(mean, mean - half, mean + half)
