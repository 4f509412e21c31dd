"""Feedback that waits on disk for Redis to come back."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from feature_store.offline.feedback_log import FeedbackRecord, append_line, forget_lines

log = logging.getLogger(__name__)


class Spool:
    """A queue of records in a file that several processes share, replayed in order.

    One process replays at a time. It takes the queue by renaming it, so that others go on
    appending meanwhile; what it could not deliver it keeps, and what a process that died had taken
    is delivered by the next. A crash may thus deliver a record twice: the receiver must count a
    feedback_id once, as the online store does. A line that is not whole (a crash or a full disk in
    the middle of a write) is set aside in `*.unreadable`, and the others are not held up.
    """

    def __init__(self, path: Path) -> None:
        """`path` is created when the first record waits; what it holds from before still waits."""
        self._path = path
        self._taken = path.with_suffix(".replaying")
        self._unreadable = path.with_suffix(".unreadable")

    @property
    def empty(self) -> bool:
        """Whether nothing waits, here or in another process."""
        return not self._path.exists() and not self._taken.exists()

    def append(self, record: FeedbackRecord) -> None:
        """Put `record` at the end of the queue."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked("append"):
            append_line(self._path, record.pack())

    def forget(self, user_id: str) -> int:
        """Remove a user's records from what waits and from what was set aside; returns how many."""
        if not self._path.parent.exists():
            return 0
        with self._locked("replay"), self._locked("append"):
            files = (self._path, self._taken, self._unreadable)
            return sum(forget_lines(path, user_id) for path in files if path.exists())

    def replay(self, deliver: Callable[[FeedbackRecord], object]) -> int:
        """Deliver what waits, oldest first, and forget it; returns how many were delivered.

        Returns 0 at once when another process is replaying. An exception of `deliver` passes
        through; what was not delivered waits on.
        """
        if self.empty:
            return 0
        with self._locked("replay", wait=False) as alone:
            if not alone or not self._take():
                return 0
            lines = self._taken.read_bytes().splitlines(keepends=True)
            done = delivered = 0
            try:
                for line in lines:
                    if (record := self._decode(line)) is not None:
                        deliver(record)
                        delivered += 1
                    done += 1
            finally:
                rest = self._taken.with_suffix(".rest")
                rest.write_bytes(b"".join(lines[done:]))
                rest.replace(self._taken)
            self._taken.unlink()
            return delivered

    def _take(self) -> bool:
        """Whether there is a queue to deliver, once it is this process's own."""
        if self._taken.exists():
            return True
        with self._locked("append"):
            if not self._path.exists():
                return False
            self._path.rename(self._taken)
            return True

    def _decode(self, line: bytes) -> FeedbackRecord | None:
        try:
            return FeedbackRecord.unpack(line)
        except (ValueError, TypeError):
            log.error("a spooled record is unreadable and was set aside in %s", self._unreadable)
            append_line(self._unreadable, line if line.endswith(b"\n") else line + b"\n")
            return None

    @contextmanager
    def _locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        with self._path.with_suffix(f".{name}.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
            yield True
