"""A stream of predictions with their keys and, later, their outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory import ErrorBatch

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Stream:
    """n events in the order of time, as a frozen model saw them.

    Attributes:
        inputs: (n, f) float32, the model's inputs, for baselines that train on.
        keys: (n, d) float32, scaled hidden representations.
        predictions: (n, C) float32; one column is a score.
        labels: (n, C) float32, one-hot or (n, 1) in [0, 1].
        groups: (n,) int64 whose events these are (users), or zeros.
        items: (n,) int64 what they are about, or zeros.
        time_s: (n,) float64.
    """

    inputs: FloatArray
    keys: FloatArray
    predictions: FloatArray
    labels: FloatArray
    groups: NDArray[np.int64]
    items: NDArray[np.int64]
    time_s: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice | NDArray[np.bool_ | np.int64]) -> Stream:
        """Some of the events."""
        return Stream(
            **{
                each.name: np.ascontiguousarray(getattr(self, each.name)[rows])
                for each in fields(self)
            }
        )

    @property
    def n_classes(self) -> int:
        """Columns of the labels; 1 for scores."""
        return int(self.labels.shape[1])


def of_entries(batches: Sequence[ErrorBatch]) -> Stream:
    """The entries of a memory's log, as a stream to replay.

    Raises:
        ValueError: there are none.
    """
    if not batches:
        raise ValueError("the memory has no entries yet: nothing was served and answered")
    whole = {
        name: np.concatenate([getattr(each, name) for each in batches])
        for name in ("keys", "labels", "predictions", "sources", "time_ms")
    }
    n = len(whole["keys"])
    return Stream(
        inputs=whole["keys"],
        keys=whole["keys"],
        predictions=whole["predictions"],
        labels=whole["labels"],
        groups=(whole["sources"] & np.uint64(2**62 - 1)).astype(np.int64),
        items=np.zeros(n, np.int64),
        time_s=whole["time_ms"] / 1e3,
    )
