"""Packets as captured: one buffer and arrays that point into it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class PacketBatch:
    """n packets in capture order. `data` may hold more than the packets (record headers, gaps).

    Shapes:
        data: (bytes,) uint8
        offset: (n,) int64, where in `data` a packet begins
        captured: (n,) int64, bytes that are in `data`
        length: (n,) int64, bytes on the wire; never below `captured`
        timestamp_ns: (n,) int64, nanoseconds since 1970
        link_type: (n,) int64, LINKTYPE_ numbers of tcpdump.org
    """

    data: NDArray[np.uint8]
    offset: NDArray[np.int64]
    captured: NDArray[np.int64]
    length: NDArray[np.int64]
    timestamp_ns: NDArray[np.int64]
    link_type: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offset)

    def __getitem__(self, packets: slice | NDArray[np.int64]) -> PacketBatch:
        """Some of the packets, over the same buffer."""
        return PacketBatch(
            self.data,
            self.offset[packets],
            self.captured[packets],
            self.length[packets],
            self.timestamp_ns[packets],
            self.link_type[packets],
        )

    def packet(self, index: int) -> bytes:
        """The captured bytes of one packet."""
        start = int(self.offset[index])
        return self.data[start : start + int(self.captured[index])].tobytes()

    @classmethod
    def concatenate(cls, batches: Sequence[PacketBatch]) -> PacketBatch:
        """All packets of the batches in one, over a copy of their buffers."""
        begins = np.cumsum([0, *(len(batch.data) for batch in batches)])
        return cls(
            data=np.concatenate([batch.data for batch in batches]),
            offset=np.concatenate(
                [batch.offset + begin for batch, begin in zip(batches, begins, strict=False)]
            ),
            captured=np.concatenate([batch.captured for batch in batches]),
            length=np.concatenate([batch.length for batch in batches]),
            timestamp_ns=np.concatenate([batch.timestamp_ns for batch in batches]),
            link_type=np.concatenate([batch.link_type for batch in batches]),
        )

    @classmethod
    def empty(cls) -> PacketBatch:
        """No packets."""
        return cls.from_packets([], timestamp_ns=[])

    @classmethod
    def from_packets(
        cls,
        packets: Sequence[bytes],
        *,
        timestamp_ns: Iterable[int],
        link_type: int = 1,
        length: Sequence[int] | None = None,
    ) -> PacketBatch:
        """Packets that did not come from a file: a message queue's, or a test's.

        Raises:
            ValueError: not one timestamp a packet.
        """
        captured = np.array([len(packet) for packet in packets], np.int64)
        times = np.fromiter(timestamp_ns, np.int64)
        if len(times) != len(packets):
            raise ValueError(f"{len(packets)} packets but {len(times)} timestamps")
        wire = captured if length is None else np.maximum(captured, np.array(length, np.int64))
        return cls(
            data=np.frombuffer(bytearray(b"".join(packets)), np.uint8),
            offset=np.cumsum(captured) - captured,
            captured=captured,
            length=wire,
            timestamp_ns=times,
            link_type=np.full(len(packets), link_type, np.int64),
        )
