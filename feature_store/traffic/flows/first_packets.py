"""What is kept of the first packets of every flow in the table."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.compiled import compiled
from feature_store.traffic.flows.fields import HEADER_FIELDS, read_fields
from feature_store.traffic.flows.flow import (
    HEADER_BYTES,
    PAYLOAD_BYTES,
    RAW_BYTES,
    RAW_PACKETS,
    FlowBatch,
)
from feature_store.traffic.flows.tracker import Steps


class FirstPackets:
    """Columns with a row for each slot of the table; memory is touched only as slots are used."""

    def __init__(self, slots: int, kept: int) -> None:
        self._size = np.zeros((slots, kept), np.int32)
        self._direction = np.zeros((slots, kept), np.int8)
        self._gap_ns = np.zeros((slots, kept), np.int64)
        self._fields = np.zeros((slots, kept, len(HEADER_FIELDS)), np.uint16)
        self._raw = np.zeros((slots, RAW_PACKETS, RAW_BYTES), np.uint8)
        self._header_length = np.zeros((slots, RAW_PACKETS, 2), np.uint8)

    def add(
        self, batch: PacketBatch, packets: NDArray[np.void], steps: Steps, begin: int, end: int
    ) -> None:
        """Keep what is kept of the packets from `begin` to `end`, which were just tracked."""
        chosen = begin + np.flatnonzero(steps.place[begin:end] >= 0)
        if not len(chosen):
            return
        slot, place = steps.slot[chosen], steps.place[chosen]
        fresh = slot[place == 0]
        for column in (self._size, self._direction, self._gap_ns, self._fields):
            column[fresh] = 0
        self._size[slot, place] = packets["ip_length"][chosen]
        self._direction[slot, place] = steps.direction[chosen]
        self._gap_ns[slot, place] = steps.gap_ns[chosen]
        fields = np.zeros((len(chosen), len(HEADER_FIELDS)), np.uint16)
        read_fields(batch.data, packets, batch.offset, batch.captured, chosen, fields)
        self._fields[slot, place] = fields
        copy_raw(
            batch.data,
            batch.offset,
            batch.captured,
            packets,
            chosen,
            slot,
            place,
            self._raw,
            self._header_length,
        )

    def read(self, slots: NDArray[np.int32], flow: NDArray[np.void]) -> FlowBatch:
        """The columns of some slots, copied, beside their `flow`."""
        return FlowBatch(
            flow=flow,
            size=self._size[slots],
            direction=self._direction[slots],
            gap_ns=self._gap_ns[slots],
            fields=self._fields[slots],
            raw=self._raw[slots],
            header_length=self._header_length[slots],
        )


@compiled
def copy_raw(
    data: NDArray[np.uint8],
    offset: NDArray[np.int64],
    captured: NDArray[np.int64],
    packets: NDArray[np.void],
    chosen: NDArray[np.int64],
    slot: NDArray[np.int32],
    places: NDArray[np.int32],
    raw: NDArray[np.uint8],
    header_length: NDArray[np.uint8],
) -> None:
    """Copy headers and payload of the chosen packets that are among their flow's first five."""
    for row in range(chosen.size):
        place = places[row]
        if place >= RAW_PACKETS:
            continue
        i = chosen[row]
        packet, target = packets[i], raw[slot[row]]
        if place == 0:
            target[:] = 0
            header_length[slot[row]] = 0
        start = offset[i]
        network, payload = packet["network_offset"], packet["payload_offset"]
        end = min(captured[i], network + packet["ip_length"])
        headers = min(min(payload, end) - network, HEADER_BYTES)
        for byte in range(headers):
            target[place, byte] = data[start + network + byte]
        for byte in range(min(end - payload, PAYLOAD_BYTES)):
            target[place, HEADER_BYTES + byte] = data[start + payload + byte]
        lengths = header_length[slot[row], place]
        lengths[0] = min(packet["transport_offset"] - network, headers)
        lengths[1] = headers
