"""The few largest of many numbers, a column at a time.

A matrix of everything against everything is read once, in the order in which it lies in memory;
sorting it in part would take twenty times as long.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_store.compiled import compiler

FloatArray = NDArray[np.float32]
compiled = compiler(Path(__file__).parent)


def strongest(weights: FloatArray, k: int) -> tuple[NDArray[np.int64], FloatArray]:
    """Of each column of `weights` (n, m) the `k` largest above 0.

    Returns:
        rows (m, k) and their weights (m, k), largest first, of equal ones the first row first;
        -1 and 0 where fewer are above 0.
    """
    rows = np.full((weights.shape[1], k), -1, np.int64)
    kept = np.zeros((weights.shape[1], k), np.float32)
    if k:
        _keep(np.ascontiguousarray(weights), rows, kept)
    return rows, kept


@compiled
def _keep(weights: FloatArray, rows: NDArray[np.int64], kept: FloatArray) -> None:
    n, m = weights.shape
    k = rows.shape[1]
    least = np.zeros(m, np.float32)  # of what is kept of each column
    for row in range(n):
        for column in range(m):
            weight = weights[row, column]
            if weight > least[column]:
                place = k - 1
                while place > 0 and kept[column, place - 1] < weight:
                    kept[column, place] = kept[column, place - 1]
                    rows[column, place] = rows[column, place - 1]
                    place -= 1
                kept[column, place] = weight
                rows[column, place] = row
                least[column] = kept[column, k - 1]
