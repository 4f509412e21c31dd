"""Labels, and their offline log: the next training's data, whatever becomes of Redis."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import orjson

from feature_store.error_memory.hashing import source_id


class Learned(StrEnum):
    """What became of a label."""

    LEARNED = "learned"
    DUPLICATE = "duplicate"  # its feedback id was seen
    EXPIRED = "expired"  # no such verdict waits, or not any more
    NO_ROOM = "no_room"  # the version holds as many new classes as it can


@dataclass(frozen=True)
class Label:
    """What a flow really was.

    Attributes:
        prediction_id: of its verdict.
        label: the class's name, known to the edition or not.
        source: who says so: what a source said can be forgotten together.
        feedback_id: a label of the verdict with the same id counts once.
    """

    prediction_id: str
    label: str
    source: str = ""
    feedback_id: str = ""

    @property
    def entry_id(self) -> int:
        """Feedback id of the entry that it makes."""
        named = self.feedback_id or f"{self.source}\0{self.label}"
        return source_id(f"{self.prediction_id}\0{named}")


@dataclass(frozen=True)
class LoggedLabel:
    """A label, and when it came, in seconds since 1970."""

    time_s: float
    label: Label


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
            # A process died within a line: the next one is no part of it.
            file.write(b"\n" * _is_torn(Path(file.name)) + lines)
            file.flush()
            os.fsync(file.fileno())

    def find(self, entry_ids: Collection[int]) -> dict[int, LoggedLabel]:
        """The labels that made these entries, by `Label.entry_id`, as they came first on the last
        day on which they came; some may be known elsewhere alone. Looks at the newest day first."""
        missing = set(entry_ids)
        found: dict[int, LoggedLabel] = {}
        for path in sorted(self._directory.glob("*.jsonl"), reverse=True):
            if not missing:
                break
            with path.open("rb") as lines:
                for line in lines:
                    try:
                        logged = _logged(line)
                    except orjson.JSONDecodeError:  # a process died, or is at it
                        continue
                    entry_id = logged.label.entry_id
                    if entry_id in missing:
                        missing.remove(entry_id)
                        found[entry_id] = logged
        return found


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _logged(line: bytes) -> LoggedLabel:
    facts = orjson.loads(line)
    return LoggedLabel(facts.pop("time"), Label(**facts))
