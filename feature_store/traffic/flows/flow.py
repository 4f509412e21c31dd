"""A flow, finished or not, and batches of them as columns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.flows.fields import HEADER_FIELDS

RAW_PACKETS = 5
HEADER_BYTES = 80
PAYLOAD_BYTES = 240
RAW_BYTES = HEADER_BYTES + PAYLOAD_BYTES


class EndReason(IntEnum):
    """Why a flow ended."""

    OPEN = 0  # it has not
    FIN = 1  # both sides said FIN
    RST = 2
    IDLE = 3  # no packet for the idle timeout
    ACTIVE = 4  # older than the active timeout; its later packets are another flow
    EVICTED = 5  # the table was full and this flow was the least recently used
    CAPTURE_END = 6


# The first packet's sender is the source; its direction is 0, the answer's 1.
FLOW = np.dtype(
    [
        ("number", "i8"),  # counts the flows of a table from 0 in order of their first packets
        ("src_hi", "u8"),
        ("src_lo", "u8"),
        ("dst_hi", "u8"),
        ("dst_lo", "u8"),
        ("src_mac", "u8"),  # of the first packet's Ethernet header, 0 without one: for labels only
        ("dst_mac", "u8"),
        ("src_port", "u2"),
        ("dst_port", "u2"),
        ("protocol", "u1"),
        ("version", "u1"),
        ("end_reason", "u1"),  # an `EndReason`
        ("fins", "u1"),  # bit 0: the source said FIN, bit 1: the destination
        ("first_ns", "i8"),
        ("last_ns", "i8"),
        ("packets", "i8", (2,)),
        ("bytes", "i8", (2,)),  # of IP packets: headers included, link layer and tunnels not
        ("kept", "i4"),  # packets in the first-packet columns
    ]
)


@dataclass(frozen=True, slots=True)
class FlowBatch:
    """n flows as columns; M packets of each are kept, 5 of these with bytes. Padding is zero.

    Shapes:
        flow: (n,) `FLOW`
        size: (n, M) int32, bytes of the IP packet
        direction: (n, M) int8, +1 from the source, -1 from the destination, 0 padding
        gap_ns: (n, M) int64, time since the packet before, never negative, 0 for the first
        fields: (n, M, K) uint16, see `fields.HEADER_FIELDS`
        raw: (n, 5, 320) uint8, 80 bytes of headers from the IP header on, then 240 of payload
        header_length: (n, 5, 2) uint8, bytes of IP headers and of all headers within the 80
    """

    flow: NDArray[np.void]
    size: NDArray[np.int32]
    direction: NDArray[np.int8]
    gap_ns: NDArray[np.int64]
    fields: NDArray[np.uint16]
    raw: NDArray[np.uint8]
    header_length: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.flow)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> FlowBatch:
        """Some of the flows."""
        return FlowBatch(*(column[rows] for column in self.columns()))

    def cut(self, packets: int | NDArray[np.int64]) -> FlowBatch:
        """The flows as they were after so many packets, one number or (n,), at least 1.

        What is kept of them is cut; totals and times of `flow` stay those of the whole.
        """
        kept = np.minimum(self.flow["kept"], packets)
        flow = self.flow.copy()
        flow["kept"] = kept
        there = np.arange(self.size.shape[1]) < kept[:, None]  # (n, M)
        seen = there[:, :RAW_PACKETS]
        raw, header_length = self.raw.copy(), self.header_length.copy()
        raw[:, : seen.shape[1]] *= seen[..., None]
        header_length[:, : seen.shape[1]] *= seen[..., None]
        return FlowBatch(
            flow=flow,
            size=self.size * there,
            direction=self.direction * there,
            gap_ns=self.gap_ns * there,
            fields=self.fields * there[..., None],
            raw=raw,
            header_length=header_length,
        )

    @classmethod
    def empty(cls, packets: int) -> FlowBatch:
        """No flows; `packets` is M."""
        return cls(
            flow=np.zeros(0, FLOW),
            size=np.zeros((0, packets), np.int32),
            direction=np.zeros((0, packets), np.int8),
            gap_ns=np.zeros((0, packets), np.int64),
            fields=np.zeros((0, packets, len(HEADER_FIELDS)), np.uint16),
            raw=np.zeros((0, RAW_PACKETS, RAW_BYTES), np.uint8),
            header_length=np.zeros((0, RAW_PACKETS, 2), np.uint8),
        )

    @classmethod
    def concatenate(cls, batches: list[FlowBatch]) -> FlowBatch:
        """All flows of the batches in one.

        Raises:
            ValueError: no batches, or batches with different numbers of kept packets.
        """
        columns = zip(*(batch.columns() for batch in batches), strict=True)
        return cls(*(np.concatenate(parts) for parts in columns))

    def columns(self) -> Iterator[NDArray[Any]]:
        """The arrays, in the order in which they are listed above."""
        yield from (self.flow, self.size, self.direction, self.gap_ns)
        yield from (self.fields, self.raw, self.header_length)
