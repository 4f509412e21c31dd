"""The memory of fragments again, slow and obvious."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from feature_store.traffic.packets.outcome import Outcome

FRAGMENT_LIFETIME_NS = 60_000_000_000
HOLD_NS = 30_000_000_000
LONGEST_HEADERS = 400

Datagram = tuple[bytes, bytes, int, int]  # source, destination, protocol, identification
Flow = tuple[bytes, bytes, int, int, int, int]


@dataclass(eq=False)
class FirstFragment:
    """A first fragment's key, its time and the flow that it led to."""

    key: Datagram
    timestamp_ns: int
    flow: Flow | None = None


@dataclass(eq=False)
class Held:
    """A later fragment that came before its first: which packet of the batch it was."""

    key: Datagram
    timestamp_ns: int
    row: int
    waits: bool = True


@dataclass(eq=False)
class Memory:
    """The newest first fragments, and the newest that waited for theirs."""

    fragments: int
    given_up: Counter[Outcome] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.firsts: deque[FirstFragment] = deque(maxlen=self.fragments)
        self.held: deque[Held] = deque(maxlen=self.fragments)

    def flow_of(self, key: Datagram, now: int) -> Flow | Outcome:
        """The flow of a later fragment, or what becomes of it without one."""
        first = next((first for first in reversed(self.firsts) if first.key == key), None)
        if first is None or now - first.timestamp_ns > FRAGMENT_LIFETIME_NS:
            return Outcome.FRAGMENT_WAITS
        return first.flow or Outcome.FRAGMENT_WITHOUT_FIRST

    def hold(self, held: Held) -> None:
        """Let a fragment wait; it may push out the one that came longest ago."""
        oldest = self.held[0] if len(self.held) == self.fragments else None
        if oldest is not None and oldest.waits:
            late = held.timestamp_ns - oldest.timestamp_ns > HOLD_NS
            self.given_up[
                Outcome.FRAGMENT_WITHOUT_FIRST if late else Outcome.FRAGMENT_WITHOUT_ROOM
            ] += 1
        self.held.append(held)

    def release(self, first: FirstFragment) -> list[Held]:
        """Those that waited for a first fragment, and not too long."""
        released = []
        for held in self.held:
            if not held.waits or held.key != first.key:
                continue
            held.waits = False
            if first.flow is None or first.timestamp_ns - held.timestamp_ns > HOLD_NS:
                self.given_up[Outcome.FRAGMENT_WITHOUT_FIRST] += 1
            else:
                released.append(held)
        return released
