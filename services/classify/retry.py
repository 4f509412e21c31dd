"""When a server that failed is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis

RETRY_S = 1.0
TIMES_AS_LONG = 10.0


class Retry:
    """After a second, or after ten times as long as the failure took.

    A server that is gone fails at once. One that hangs takes a time-out to fail, and asked every
    second it would leave next to no time for anything else.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._at = 0.0

    @property
    def is_due(self) -> bool:
        """Whether the server may be asked."""
        return self._monotonic() >= self._at

    @contextmanager
    def asking(self) -> Iterator[None]:
        """The block asks the server; a `redis.RedisError` that leaves it is one more failure."""
        began = self._monotonic()
        try:
            yield
        except redis.RedisError:
            now = self._monotonic()
            self._at = now + max(RETRY_S, TIMES_AS_LONG * (now - began))
            raise
