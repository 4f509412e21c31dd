"""The offline log of labels: the next training's data, whatever becomes of Redis."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from services.classify.memory import Label


class LabelLog:
    """JSON lines by day; a label is on disk before it is acknowledged."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()

    def append(self, labels: Sequence[Label]) -> None:
        """Write labels and force them to disk."""
        now = datetime.now(UTC)
        lines = b"".join(
            orjson.dumps(
                {
                    "time": now.timestamp(),
                    "prediction_id": each.prediction_id,
                    "label": each.label,
                    "source": each.source,
                    "feedback_id": each.feedback_id,
                },
                option=orjson.OPT_APPEND_NEWLINE,
            )
            for each in labels
        )
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._lock, (self._directory / f"{now:%Y-%m-%d}.jsonl").open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
