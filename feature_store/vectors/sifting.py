"""What is left of found rows when each query's hidden ones are taken out: one compiled pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from feature_store.compiled import compiler

compiled = compiler(Path(__file__).parent)

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def without(
    scores: FloatArray, rows: IntArray, hidden: Sequence[IntArray], k: int, flags: BoolArray
) -> tuple[FloatArray, IntArray]:
    """The first k of each query's found rows that it does not hide: scores and rows (B, ≤k).

    Args:
        scores, rows: (B, n), best first; -1 where fewer were found.
        hidden: B arrays of rows.
        flags: one for every row there is, all False; they are so again afterwards.
    """
    ends = np.cumsum([len(each) for each in hidden])
    kept_scores = np.full((len(rows), min(k, rows.shape[1])), -np.inf, np.float32)
    kept_rows = np.full(kept_scores.shape, -1, np.int64)
    _without(scores, rows, np.concatenate(hidden), ends, flags, kept_scores, kept_rows)
    return kept_scores, kept_rows


@compiled
def _without(
    scores: FloatArray,
    rows: IntArray,
    hidden: IntArray,
    ends: IntArray,
    flags: BoolArray,
    kept_scores: FloatArray,
    kept_rows: IntArray,
) -> None:
    begin = 0
    for query in range(len(rows)):
        end = ends[query]
        for at in range(begin, end):
            if 0 <= hidden[at] < len(flags):
                flags[hidden[at]] = True
        kept = 0
        for place in range(rows.shape[1]):
            row = rows[query, place]
            if row >= 0 and not flags[row]:
                kept_scores[query, kept] = scores[query, place]
                kept_rows[query, kept] = row
                kept += 1
                if kept == kept_rows.shape[1]:
                    break
        for at in range(begin, end):
            if 0 <= hidden[at] < len(flags):
                flags[hidden[at]] = False
        begin = end
