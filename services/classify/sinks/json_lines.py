"""Verdicts as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

import orjson

from services.classify.verdict import Verdict


class JsonLines:
    """One JSON object a line, flushed with each micro-batch."""

    def __init__(self, stream: BinaryIO, *, final_only: bool = False) -> None:
        self._stream = stream
        self._final_only = final_only

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """See `Sink`."""
        lines = [
            orjson.dumps(verdict.to_json(), option=orjson.OPT_APPEND_NEWLINE)
            for verdict in verdicts
            if verdict.final or not self._final_only
        ]
        if lines:
            self._stream.write(b"".join(lines))
            self._stream.flush()

    def close(self) -> None:
        """See `Sink`."""
        self._stream.flush()
