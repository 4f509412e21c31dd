"""Verdicts in a Redis Stream, for whoever reads along."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import orjson
import redis

from services.classify.retry import Retry
from services.classify.verdict import Verdict


class RedisStream:
    """One entry a verdict, field `verdict` as JSON; the stream keeps about the newest `length`.

    When the server is gone verdicts are dropped and counted, and it is asked again (`Retry`).

    Attributes:
        dropped: verdicts that did not reach the stream.
    """

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        *,
        length: int = 100_000,
        final_only: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped = 0
        self._redis = client
        self._name = name
        self._length = length
        self._final_only = final_only
        self._retry = Retry(monotonic)

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """See `Sink`."""
        chosen = [each for each in verdicts if each.final or not self._final_only]
        if not chosen:
            return
        if not self._retry.is_due:
            self.dropped += len(chosen)
            return
        pipeline = self._redis.pipeline(transaction=False)
        for verdict in chosen:
            encoded = orjson.dumps(verdict.to_json())
            pipeline.xadd(self._name, {"verdict": encoded}, maxlen=self._length, approximate=True)
        try:
            with self._retry.asking():
                pipeline.execute()
        except redis.RedisError:
            self.dropped += len(chosen)

    def close(self) -> None:
        """See `Sink`."""
