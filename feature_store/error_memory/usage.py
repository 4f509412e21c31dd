"""How often a version's memory was asked, and had something near, over all replicas.

errata:TENANT:memory:{MODEL:VERSION}:usage    a hash: reads, hits
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.remembered import Remembered


@dataclass(frozen=True)
class Used:
    """Predictions that were looked up, and those of them that a remembered error was near."""

    reads: int
    hits: int


_NEVER = Used(0, 0)


class Usage:
    """Adds what this process looked up to what the others did."""

    def __init__(self) -> None:
        self._told: dict[str, Used] = {}
        self._lock = threading.Lock()

    def together(self, each: Remembered) -> Used:
        """Of all replicas, since the version served first; of this process alone while Redis is
        away."""
        stats = each.replica.memory.stats()
        here = Used(stats.reads, stats.hits)
        if not each.replica.fresh:
            return here
        key = _key(each.log)
        with self._lock:
            told = self._told.get(key, _NEVER)
            if here.reads < told.reads:  # the memory was rebuilt, and counts anew
                told = _NEVER
            pipeline = each.log.client.pipeline(transaction=False)
            pipeline.hincrby(key, "reads", here.reads - told.reads)
            pipeline.hincrby(key, "hits", here.hits - told.hits)
            answer: Any = pipeline.execute()
            self._told[key] = here
        return Used(*map(int, answer))


def told(log: MemoryLog) -> Used:
    """What all replicas have told so far: for a process whose own memory nobody asks.

    Raises:
        redis.RedisError: the server is gone.
    """
    answer: Any = log.client.hmget(_key(log), ["reads", "hits"])
    return Used(*(int(each or 0) for each in answer))


def _key(log: MemoryLog) -> str:
    return f"{log.key}:usage"
