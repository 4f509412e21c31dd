"""An append-only log of feedback: one JSON line per outcome, a directory per day."""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import polars as pl

_ROOM_BYTES = 65_536
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SCHEMA = {
    "feedback_id": pl.String,
    "user_id": pl.String,
    "item_id": pl.String,
    "type": pl.String,
    "weight": pl.Float32,
    "timestamp_ms": pl.Int64,
    "prediction_id": pl.String,
    "model_version": pl.String,
}


@dataclass(frozen=True, slots=True)
class FeedbackRecord:
    """One outcome.

    Attributes:
        feedback_id: the same id is the same outcome, however often it was sent.
        timestamp_ms: when it happened, milliseconds since the epoch.
        prediction_id: the answer that was acted upon, if known.
        model_version: the version that served then.
    """

    feedback_id: str
    user_id: str
    item_id: str
    type: str
    weight: float
    timestamp_ms: int
    prediction_id: str | None
    model_version: str | None

    def pack(self) -> bytes:
        """One line of JSON."""
        return orjson.dumps(asdict(self), option=orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def unpack(cls, line: bytes) -> FeedbackRecord:
        """Inverse of `pack`."""
        return cls(**orjson.loads(line))


class FeedbackLog:
    """Writers append to files of their own, so that several processes share a directory.

    A record is handed to the operating system before `append` returns: it survives the death of
    the process, and a power cut loses at most what the system had not written back.
    """

    def __init__(self, directory: Path) -> None:
        """`directory` holds `day=YYYY-MM-DD/WRITER.jsonl`."""
        self._directory = directory
        self._writer = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._lock = threading.Lock()

    def forget(self, user_id: str) -> int:
        """Remove every record of a user, of all writers; returns how many there were.

        Writers wait meanwhile. A line that is not whole is removed too where it names the user.
        """
        removed = 0
        with self._lock, self._rewriting(exclusive=True):
            for path in sorted(self._directory.glob("day=*/*.jsonl")):
                removed += forget_lines(path, user_id)
        return removed

    def append(self, record: FeedbackRecord) -> None:
        """Write one record into the partition of the day on which it happened."""
        day = (EPOCH + timedelta(milliseconds=record.timestamp_ms)).date()
        path = self._directory / f"day={day}" / f"{self._writer}.jsonl"
        with self._lock, self._rewriting(exclusive=False):
            path.parent.mkdir(parents=True, exist_ok=True)
            append_line(path, record.pack())

    def takes(self) -> bool:
        """Whether the disk has room for some more records."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._directory, buffering=0) as file:
                return file.write(bytes(_ROOM_BYTES)) == _ROOM_BYTES
        except OSError:
            return False

    def read(self) -> pl.DataFrame:
        """All outcomes in time order, each of a user's feedback_ids once; a line that is not
        whole is left out."""
        records = []
        for path in sorted(self._directory.glob("day=*/*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    records.append(asdict(FeedbackRecord.unpack(line)))
                except (orjson.JSONDecodeError, TypeError):
                    continue
        table = pl.DataFrame(records, schema=SCHEMA)
        once = table.unique(("user_id", "feedback_id"), keep="first", maintain_order=True)
        return once.sort("timestamp_ms", maintain_order=True)

    @contextmanager
    def _rewriting(self, *, exclusive: bool) -> Iterator[None]:
        """Any number of processes append, or one rewrites."""
        self._directory.mkdir(parents=True, exist_ok=True)
        with (self._directory / "rewrite.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield


def forget_lines(path: Path, user_id: str) -> int:
    """Take a user's lines out of a file of records, at once; returns how many there were."""
    named = b'"user_id":' + orjson.dumps(user_id)
    lines = path.read_bytes().splitlines(keepends=True)
    # The text is looked for only where a line cannot be read.
    kept = [line for line in lines if not _is_of(line, user_id, named)]
    if len(kept) < len(lines):
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        with temporary.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return len(lines) - len(kept)


def _is_of(line: bytes, user_id: str, named: bytes) -> bool:
    try:
        return FeedbackRecord.unpack(line).user_id == user_id
    except (orjson.JSONDecodeError, TypeError):
        return named in line


def append_line(path: Path, line: bytes) -> None:
    """Append one whole line, also behind one that a crash left unfinished."""
    with path.open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                line = b"\n" + line
        file.write(line)
