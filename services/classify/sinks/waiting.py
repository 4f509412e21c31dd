"""Keeps final verdicts until their true labels come."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import redis

from feature_store.online.verdicts import WaitingVerdict, WaitingVerdicts
from services.classify.sinks.redis_stream import RETRY_S
from services.classify.verdict import Verdict


class Waiting:
    """A sink before `WaitingVerdicts`; when Redis is gone verdicts are dropped and counted.

    Attributes:
        dropped: final verdicts that no label will find.
    """

    def __init__(
        self, store: WaitingVerdicts, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.dropped = 0
        self._store = store
        self._monotonic = monotonic
        self._retry_at = 0.0

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """See `Sink`."""
        final = [
            WaitingVerdict(v.prediction_id, v.model_version, v.time_ns, v.probability, v.hidden)
            for v in verdicts
            if v.final
        ]
        if not final:
            return
        if self._monotonic() < self._retry_at:
            self.dropped += len(final)
            return
        try:
            self._store.put(final)
        except redis.RedisError:
            self.dropped += len(final)
            self._retry_at = self._monotonic() + RETRY_S

    def close(self) -> None:
        """See `Sink`."""
