"""Entries of a memory as `errata memory` shows them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from feature_store.error_memory.batch import ErrorBatch
    from feature_store.error_memory.influence import Influential
    from feature_store.error_memory.log import MemoryLog
    from services.classify.labels import LoggedLabel


@dataclass(frozen=True)
class Origins:
    """Who said what some entries hold, which know of it by hashes alone.

    Attributes:
        names: of sources, by their hashes.
        labels: as they came, by the feedback ids of the entries that they made.
    """

    names: dict[int, str]
    labels: dict[int, LoggedLabel]

    @classmethod
    def of_flows(cls, log: MemoryLog, directory: Path, entries: Collection[int]) -> Origins:
        """Of entries with these feedback ids, from the decisions about a memory and the offline log
        of labels in `directory`, where this is the machine that keeps it."""
        from feature_store.error_memory.hashing import source_id
        from services.classify.labels import LabelLog

        labels = LabelLog(directory).find(entries)
        told = [each.values["source"] for each in log.controls()[0] if "source" in each.values]
        told += [each.label.source for each in labels.values()]
        return cls({source_id(name): name for name in ("", *told)}, labels)


def score_rows(batch: ErrorBatch) -> list[dict[str, Any]]:
    """Of a recommender's memory."""
    return [
        {
            "time": _instant(int(when) / 1e3),
            "source": f"{int(source):016x}",
            "label": np.round(label, 4).tolist(),
            "prediction": np.round(prediction, 4).tolist(),
            "error": np.round(label - prediction, 4).tolist(),
            "weight": round(float(weight), 4),
        }
        for when, source, label, prediction, weight in zip(
            batch.time_ms,
            batch.sources,
            batch.labels,
            batch.predictions,
            batch.weights,
            strict=True,
        )
    ]


def score_table(rows: list[dict[str, Any]]) -> Table:
    """A line each."""
    table = _lines("time", "source", "label", "prediction", "error", "weight")
    for row in rows:
        scores = (f"{row[name][0]:g}" for name in ("label", "prediction", "error"))
        _add(table, row["time"], row["source"], *scores, f"{row['weight']:g}")
    return table


def flow_rows(
    entries: ErrorBatch | Influential, classes: tuple[str, ...], origins: Origins
) -> list[dict[str, Any]]:
    """Of a traffic classifier's memory: `time` is the flow's, `predicted` and `probability` are the
    model's own, uncorrected."""
    rows = []
    for at, (label, prediction) in enumerate(zip(entries.labels, entries.predictions, strict=True)):
        source, feedback = int(entries.sources[at]), int(entries.feedback_ids[at])
        logged = origins.labels.get(feedback)
        rows.append(
            {
                "time": _instant(int(entries.time_ms[at]) / 1e3),
                "labelled": None if logged is None else _instant(logged.time_s),
                "source": f"{source:016x}",
                "source_name": origins.names.get(source),
                "feedback": f"{feedback:016x}",
                "prediction_id": None if logged is None else logged.label.prediction_id,
                "outcome": classes[label.argmax()],
                "predicted": classes[prediction.argmax()],
                "probability": round(float(prediction.max()), 4),
                "weight": round(float(entries.weights[at]), 4),
            }
        )
    return rows


def with_vectors(rows: list[dict[str, Any]], batch: ErrorBatch) -> list[dict[str, Any]]:
    """The rows with what they were read from, a number for each class."""
    return [
        row
        | {
            "label": np.round(label, 4).tolist(),
            "prediction": np.round(prediction, 4).tolist(),
            "error": np.round(label - prediction, 4).tolist(),
        }
        for row, label, prediction in zip(rows, batch.labels, batch.predictions, strict=True)
    ]


def flow_table(rows: list[dict[str, Any]], *more: str) -> Table:
    """A line each; `more` are further columns."""
    labelled = any(row["labelled"] for row in rows)
    times = ("flow's time", "labelled") if labelled else ("flow's time",)
    table = _lines(*times, "source", "label", "model said", "probability", "weight", *more)
    for row in rows:
        name = row["source_name"]
        _add(
            table,
            row["time"],
            *((row["labelled"] or "",) if labelled else ()),
            row["source"] if name is None else name or "(no name)",
            row["outcome"],
            row["predicted"],
            f"{row['probability']:.3f}",
            f"{row['weight']:g}",
            *(f"{row[each]:g}" for each in more),
        )
    return table


def _lines(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def _add(table: Table, *cells: str) -> None:
    # Names are what somebody sent: no markup.
    table.add_row(*map(Text, cells))


def _instant(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
