"""Time as packets tell it: the wall's for an interface, the recording's for a replay."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from feature_store.traffic.capture import Damage, PacketBatch


class Clock(Protocol):
    """Tells how long ago a packet came."""

    def now_ns(self) -> int:
        """Now, on the clock that stamps the packets."""
        ...

    def age_ns(self, time_ns: int) -> int:
        """Nanoseconds of the wall's clock since a packet with this stamp came."""
        ...


class WallClock:
    """Of a live interface."""

    def now_ns(self) -> int:
        """See `Clock`."""
        return time.time_ns()

    def age_ns(self, time_ns: int) -> int:
        """See `Clock`."""
        return time.time_ns() - time_ns


class Replay:
    """A capture at `speed` times its own speed: iterate it once; it is also its own clock.

    Each packet comes when it is due, together with what is due too. Where nothing is due for
    `poll_s`, an empty batch lets time pass. The stamps stay those of the recording.

    Attributes:
        damage: the capture's.
    """

    def __init__(
        self,
        packets: Iterable[PacketBatch],
        *,
        speed: float = 1.0,
        poll_s: float = 0.02,
        stop: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if speed <= 0:
            raise ValueError(f"speed must be above 0, not {speed}")
        damage: Counter[Damage] | None = getattr(packets, "damage", None)
        self.damage = Counter() if damage is None else damage
        self._packets = packets
        self._speed = speed
        self._poll_s = poll_s
        self._stop = stop
        self._sleep = sleep
        self._monotonic_ns = monotonic_ns
        self._began_ns = 0
        self._first_ns: int | None = None

    def now_ns(self) -> int:
        """See `Clock`."""
        if self._first_ns is None:
            return 0
        return self._first_ns + round((self._monotonic_ns() - self._began_ns) * self._speed)

    def age_ns(self, time_ns: int) -> int:
        """See `Clock`."""
        return round((self.now_ns() - time_ns) / self._speed)

    def __iter__(self) -> Iterator[PacketBatch]:
        latest = 0
        for batch in self._packets:
            if not len(batch):
                yield batch
                continue
            if self._first_ns is None:
                self._first_ns = latest = int(batch.timestamp_ns[0])
                self._began_ns = self._monotonic_ns()
            # A packet that is older than the one before it comes right behind it.
            due = np.maximum(np.maximum.accumulate(batch.timestamp_ns), latest)
            latest, begin = int(due[-1]), 0
            while begin < len(batch):
                if self._stop():
                    return
                end = int(np.searchsorted(due, self.now_ns(), side="right"))
                if end > begin:
                    yield batch[begin:end]
                    begin = end
                else:
                    yield from self._wait(int(due[begin]))

    def _wait(self, due_ns: int) -> Iterator[PacketBatch]:
        wait_s = (due_ns - self.now_ns()) / self._speed / 1e9
        self._sleep(max(min(wait_s, self._poll_s), 0))
        if wait_s >= self._poll_s:
            yield PacketBatch.empty()
