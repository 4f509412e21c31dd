"""What a partitioned queue does, whoever keeps it.

A message stays in the queue until a reader acknowledges it. What a reader took and did not
acknowledge, because it was closed or killed, is delivered again to another reader of the group. A
message may therefore come twice, also because a writer sent it again after an answer was lost: who
reads must know it by what is in it. Messages of one partition come in the order in which they were
written, as long as no reader dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class QueueUnavailableError(RuntimeError):
    """The server is gone, or refuses; what was not acknowledged is still in the queue."""


class QueueFullError(RuntimeError):
    """The partition holds as much as it may: its readers are behind."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message as a reader got it.

    Attributes:
        partition: where it was.
        position: its name there, for `acknowledge`.
        written_ms: when it was written, milliseconds since 1970 by the server's clock.
        again: it was delivered before, as far as the server knows.
    """

    partition: int
    position: str
    payload: bytes
    written_ms: int
    again: bool = False


@dataclass(frozen=True, slots=True)
class Lag:
    """Messages that are not acknowledged.

    Attributes:
        waiting: that no reader has taken.
        taken: that a reader has, alive or not. Kafka knows no such state: there it is 0, and what
            was taken counts as waiting.
    """

    waiting: int
    taken: int

    @property
    def total(self) -> int:
        """Both."""
        return self.waiting + self.taken


class QueueWriter(Protocol):
    """Writes messages into partitions."""

    @property
    def partitions(self) -> int:
        """How many there are; the first that opens a queue decides it."""
        ...

    def write(self, partition: int, payload: bytes) -> None:
        """Add one message.

        Raises:
            QueueFullError: nothing was written.
            QueueUnavailableError: it may have been written.
        """
        ...

    def flush(self) -> None:
        """Return when the server has all that was written.

        Raises:
            QueueUnavailableError: it has not.
        """
        ...

    def close(self) -> None:
        """Flush, and let go of the server."""
        ...


class QueueReader(Protocol):
    """One member of the group that shares the messages."""

    def read(self, *, timeout_s: float) -> list[Delivery]:
        """Messages that nobody else works on; none when none came in time.

        Raises:
            QueueUnavailableError: ask again.
        """
        ...

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """They are done and need not come again.

        Raises:
            QueueUnavailableError: they may come again.
        """
        ...

    def lag(self) -> Lag:
        """What is left to do, of the whole queue.

        Raises:
            QueueUnavailableError: nobody can say.
        """
        ...

    def close(self) -> None:
        """Leave the group; what was not acknowledged goes to the others."""
        ...
