"""How often a key may ask: one token bucket a key, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable

# What a key may ask at once after a pause, in seconds of its rate.
BURST_S = 2.0


class RateLimits:
    """A bucket fills at the key's rate and holds `BURST_S` of it, one request at least."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, name: str, *, requests_per_s: float) -> float:
        """Take one request: 0 when it may pass, else the seconds until one may."""
        capacity = max(1.0, BURST_S * requests_per_s)
        now = self._clock()
        tokens, before = self._buckets.get(name, (capacity, now))
        tokens = min(capacity, tokens + (now - before) * requests_per_s)
        if tokens < 1.0:
            self._buckets[name] = (tokens, now)
            return (1.0 - tokens) / requests_per_s
        self._buckets[name] = (tokens - 1.0, now)
        return 0.0
