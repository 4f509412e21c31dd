"""The part of a packet that the slow decoder has not read yet."""

from __future__ import annotations

from dataclasses import dataclass

from feature_store.traffic.packets.outcome import Outcome


class Stop(Exception):  # noqa: N818
    """The walk is over."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


@dataclass
class Layer:
    """What is left of a packet: the captured bytes, where they begin and where the wire's end."""

    data: bytes
    at: int
    end: int

    def take(self, size: int, truncated: Outcome, malformed: Outcome) -> bytes:
        """The next `size` bytes; Stop when they are not there."""
        if self.at + size > len(self.data):
            raise Stop(malformed if self.at + size > self.end else truncated)
        self.at += size
        return self.data[self.at - size : self.at]

    def take_link(self, size: int) -> bytes:
        """The next `size` bytes of a link header."""
        return self.take(size, Outcome.LINK_TRUNCATED, Outcome.LINK_MALFORMED)

    def take_network(self, size: int) -> bytes:
        """The next `size` bytes of an IP header."""
        return self.take(size, Outcome.NETWORK_TRUNCATED, Outcome.NETWORK_MALFORMED)

    def take_transport(self, size: int) -> bytes:
        """The next `size` bytes of a transport header."""
        return self.take(size, Outcome.TRANSPORT_TRUNCATED, Outcome.TRANSPORT_MALFORMED)

    def peek(self, size: int) -> bytes:
        """Up to `size` bytes, left where they are."""
        return self.data[self.at : self.at + size] if self.at <= len(self.data) else b""


def number(data: bytes) -> int:
    """Bytes in network order."""
    return int.from_bytes(data, "big")
