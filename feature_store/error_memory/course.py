"""How wrong the model was over time, and how wrong it was with the memory's correction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from feature_store.error_memory.log import MemoryLog

LOOKED_AT = 4_096
_POINTS = 48
_FEWEST = 8  # outcomes a point


@dataclass(frozen=True)
class CoursePoint:
    """Some outcomes that followed each other.

    Attributes:
        time_ms: when the last of them happened.
        outcomes: how many.
        before, after: mean log loss of the model's own prediction and of the corrected one, as
            they were when the predictions were served, whether the gate let the latter through or
            not.
    """

    time_ms: int
    outcomes: int
    before: float
    after: float


def course(log: MemoryLog, *, outcomes: int = LOOKED_AT) -> list[CoursePoint]:
    """The newest `outcomes` of a version's stream, oldest first, in about `_POINTS` equal parts.

    Raises:
        redis.RedisError: the server is gone.
    """
    after = max(log.position() - outcomes, 0)
    losses, times = [], []
    for _, batch in log.entries(after=after):
        known = ~np.isnan(batch.losses).any(axis=1)
        losses.append(batch.losses[known][:, [0, -1]])
        times.append(batch.time_ms[known])
    if not losses:
        return []
    both, when = np.concatenate(losses), np.concatenate(times)
    points = np.array_split(np.arange(len(both)), min(_POINTS, -(-len(both) // _FEWEST)) or 1)
    return [
        CoursePoint(
            time_ms=int(when[rows].max()),
            outcomes=len(rows),
            before=float(both[rows, 0].mean()),
            after=float(both[rows, 1].mean()),
        )
        for rows in points
        if len(rows)
    ]
