"""Feedback that waits on disk for Redis to come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from feature_store.offline.feedback_log import FeedbackRecord


class Spool:
    """A queue of records in one file, replayed in order.

    A crash between a replay and the file's truncation replays records again: the receiver must
    count a feedback_id once, as the online store does.
    """

    def __init__(self, path: Path) -> None:
        """`path` is created when the first record waits; what it holds from before still waits."""
        self._path = path
        self._lock = threading.Lock()
        self._empty = not path.exists() or path.stat().st_size == 0

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return self._empty

    def append(self, record: FeedbackRecord) -> None:
        """Put `record` at the end of the queue."""
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab", buffering=0) as file:
                file.write(record.pack())
            self._empty = False

    def replay(self, deliver: Callable[[FeedbackRecord], object]) -> int:
        """Deliver what waits, oldest first, and forget it; returns how many were delivered.

        An exception of `deliver` passes through; what was not delivered waits on.
        """
        if self._empty:
            return 0
        with self._lock:
            lines = self._path.read_bytes().splitlines(keepends=True)
            delivered = 0
            try:
                for line in lines:
                    deliver(FeedbackRecord.unpack(line))
                    delivered += 1
            finally:
                rest = self._path.with_suffix(".rest")
                rest.write_bytes(b"".join(lines[delivered:]))
                rest.replace(self._path)
                self._empty = delivered == len(lines)
            return delivered
