"""From probabilities to one class where macro F1 is what counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.memory.prequential import BATCH, batches

FloatArray = NDArray[np.float32]


def macro_f1_rule(
    probabilities: FloatArray,
    labels: FloatArray,
    *,
    delay: int,
    counts: NDArray[np.int64],
    half_life: float = 100_000.0,
    batch: int = BATCH,
) -> NDArray[np.int64]:
    """Decide for the class that raises macro F1 most, in expectation.

    One more decision for class c changes F_c = 2 TP / (N + M) by about

        2 (p_c - F_c / 2) / (N_c + M_c)

    with N_c the occurrences and M_c the decisions so far, known from labels that have arrived.

    Args:
        probabilities: (n, C). labels: (n, C) one-hot.
        delay: see `batches`.
        counts: (C, C) confusion before the stream, truth down.
        half_life: in events, over which counts fade.
        batch: events per step.
    """
    truth = labels.argmax(1)
    table = counts.astype(np.float64)
    decided = np.empty(len(labels), np.int64)
    for arrived, now in batches(len(labels), delay=delay, batch=batch):
        n = arrived.stop - arrived.start
        if n:
            table *= 0.5 ** (n / half_life)
            np.add.at(table, (truth[arrived], decided[arrived]), 1.0)
        size = np.maximum(table.sum(0) + table.sum(1), 1.0)
        half_f1 = np.diag(table) / size
        decided[now] = ((probabilities[now] - half_f1) / size).argmax(1)
    return decided
