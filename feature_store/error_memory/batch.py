"""Errors, a column per property."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class ErrorBatch:
    """n outcomes beside what the model had predicted for them; an error is label - prediction.

    Attributes:
        keys: (n, d) float32, the model's own hidden representation of each.
        labels: (n, C) float32: one-hot over the classes, or (n, 1) a score in [0, 1].
        predictions: (n, C) float32 probabilities of the base model, 0 for a class it lacks.
        losses: (n, E + 1) float32: the loss of every expert's estimate as it was when the
            prediction was served, and of their mixture; NaN where that is not known.
        contexts: (n,) int64 row of mixing weights that was used.
        weights: (n,) float32, above 0.
        time_ms: (n,) int64, when the outcome happened, since the epoch.
        sources: (n,) uint64, whose feedback it was (`source_id`).
        feedback_ids: (n,) uint64 (`source_id` of the feedback's id).
    """

    keys: FloatArray
    labels: FloatArray
    predictions: FloatArray
    losses: FloatArray
    contexts: NDArray[np.int64]
    weights: FloatArray
    time_ms: NDArray[np.int64]
    sources: NDArray[np.uint64]
    feedback_ids: NDArray[np.uint64]

    @classmethod
    def of(
        cls,
        keys: FloatArray,
        labels: FloatArray,
        predictions: FloatArray,
        *,
        losses: FloatArray | None = None,
        contexts: NDArray[np.int64] | None = None,
        weights: FloatArray | None = None,
        time_ms: NDArray[np.int64] | None = None,
        sources: NDArray[np.uint64] | None = None,
        feedback_ids: NDArray[np.uint64] | None = None,
    ) -> ErrorBatch:
        """A batch with defaults for what is left out: weight 1, one source, losses unknown.

        Raises:
            ValueError: the columns are not of one length, or labels and predictions not of one
                width.
        """
        n = len(keys)
        if labels.shape != predictions.shape:
            raise ValueError(f"labels {labels.shape} and predictions {predictions.shape} differ")
        batch = cls(
            keys=np.ascontiguousarray(keys, np.float32),
            labels=np.ascontiguousarray(labels, np.float32),
            predictions=np.ascontiguousarray(predictions, np.float32),
            losses=np.full((n, 1), np.nan, np.float32)
            if losses is None
            else np.ascontiguousarray(losses, np.float32),
            contexts=np.zeros(n, np.int64) if contexts is None else contexts,
            weights=np.ones(n, np.float32) if weights is None else weights,
            time_ms=np.zeros(n, np.int64) if time_ms is None else time_ms,
            sources=np.zeros(n, np.uint64) if sources is None else sources,
            feedback_ids=np.zeros(n, np.uint64) if feedback_ids is None else feedback_ids,
        )
        lengths = {each.name: len(getattr(batch, each.name)) for each in fields(batch)}
        if len({*lengths.values()}) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")
        return batch

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> ErrorBatch:
        """The batch of some rows."""
        return ErrorBatch(**{each.name: getattr(self, each.name)[rows] for each in fields(self)})
