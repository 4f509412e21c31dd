"""What `/metrics` says of the error memories, whichever application they correct."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Gauge

from feature_store.error_memory.remembered import Remembered

_Names = tuple[str, str, str]


class MemoryTelemetry:
    """Gauges of every served version's memory.

    Of several worker processes the worst is told: one that is frozen, the newest entry.
    """

    def __init__(
        self, registry: CollectorRegistry, *, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock`: seconds since 1970."""
        self._clock = clock
        self._written: dict[_Names, int] = {}

        def gauge(name: str, says: str) -> Gauge:
            return Gauge(
                name,
                says,
                ["model", "catalogue", "version"],
                registry=registry,
                multiprocess_mode="livemax",
            )

        self.entries = gauge("errata_memory_entries", "Remembered errors")
        self.frozen = gauge(
            "errata_memory_frozen", "1 while Redis is away: nothing new is learned, answers go on"
        )
        self.last_entry = gauge(
            "errata_memory_last_entry_timestamp_seconds",
            "When the process saw the memory grow last; 0 before the first entry",
        )

    def show(self, memories: Sequence[Remembered]) -> None:
        """Take what the memories are now; those that serve no more go to 0."""
        seen: dict[_Names, int] = {}
        for each in memories:
            names = (each.model, each.title, each.version)
            memory = each.replica.memory
            seen[names] = written = memory.written
            self.entries.labels(*names).set(len(memory))
            self.frozen.labels(*names).set(not each.replica.fresh)
            if written > self._written.get(names, 0):
                self.last_entry.labels(*names).set(self._clock())
            elif written == 0:
                self.last_entry.labels(*names).set(0)
        for names in self._written.keys() - seen.keys():
            for gauge in (self.entries, self.frozen, self.last_entry):
                gauge.labels(*names).set(0)
        self._written = seen
