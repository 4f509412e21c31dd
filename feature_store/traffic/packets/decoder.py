"""From captured bytes to flows' keys: every layer of a packet, compiled, a batch at a time.

The kernel is a walk from layer to layer (`layer.py`), outermost first. Content that is not IP,
found inside a tunnel, leaves the packet to the tunnel's own flow.

`reference.decode_reference` tells the same in plain Python.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.compiled import compiled
from feature_store.traffic.packets.fragments import remember_flow
from feature_store.traffic.packets.ip import ip_version, ipv4, ipv6
from feature_store.traffic.packets.layer import (
    COOKED,
    COOKED_2,
    ERSPAN_2,
    ERSPAN_3,
    ETHERNET,
    FLOW,
    GRE,
    IP,
    IPV4,
    LLC,
    LOOPBACK,
    MPLS,
    NOT_IP,
    PPP,
    PPPOE,
    TOO_DEEP,
    TRANSPORT,
    VLAN,
    u16,
    u32,
)
from feature_store.traffic.packets.link import (
    cooked_2,
    ethertype_at,
    first_layer,
    llc,
    loopback,
    mpls,
    ppp,
)
from feature_store.traffic.packets.packet import FRAGMENT, PACKET
from feature_store.traffic.packets.transport import transport
from feature_store.traffic.packets.tunnel import erspan_3, gre

MAX_DEPTH = 8
MOST_WIRE_BYTES = 2**31 - 1  # what a record's length can claim is cut to what `PACKET` holds


class PacketDecoder:
    """Decodes batches in capture order, remembering first fragments between them.

    Args:
        fragments: how many of the newest first fragments are remembered, at least one.
    """

    def __init__(self, *, fragments: int = 512) -> None:
        if fragments < 1:
            raise ValueError(f"fragments must be at least 1, not {fragments}")
        self._ring = np.zeros(fragments, FRAGMENT)
        self._written = np.zeros(1, np.int64)

    def decode(self, batch: PacketBatch) -> NDArray[np.void]:
        """(n,) `PACKET`, one for each packet of the batch. Never raises on any bytes."""
        packets = np.zeros(len(batch), PACKET)
        decode_packets(
            batch.data,
            batch.offset,
            batch.captured,
            batch.length,
            batch.timestamp_ns,
            batch.link_type,
            self._ring,
            self._written,
            packets,
        )
        return packets


@compiled
def decode_packets(
    data: NDArray[np.uint8],
    offset: NDArray[np.int64],
    captured: NDArray[np.int64],
    length: NDArray[np.int64],
    timestamp_ns: NDArray[np.int64],
    link_type: NDArray[np.int64],
    ring: NDArray[np.void],
    written: NDArray[np.int64],
    packets: NDArray[np.void],
) -> None:
    """Fill `packets`, which are zero, and the ring of first fragments."""
    for i in range(offset.size):
        packet = packets[i]
        end = min(length[i], MOST_WIRE_BYTES)
        packet["wire_length"] = end
        bytes_ = data[offset[i] : offset[i] + captured[i]]
        if link_type[i] == 1 and bytes_.size >= 12:
            packet["dst_mac"] = (u16(bytes_, 0) << 32) | u32(bytes_, 2)
            packet["src_mac"] = (u16(bytes_, 6) << 32) | u32(bytes_, 8)
        before = written[0]
        outcome = _walk(bytes_, end, link_type[i], timestamp_ns[i], ring, written, packet)
        packet["outcome"] = -outcome
        for entry in range(before, written[0]):
            remember_flow(ring[entry % ring.size], packet, outcome == FLOW)


@compiled
def _walk(
    data: NDArray[np.uint8],
    length: int,
    link_type: int,
    timestamp_ns: int,
    ring: NDArray[np.void],
    written: NDArray[np.int64],
    packet: np.void,
) -> int:
    """The (negative) outcome. `end` is where the innermost packet ends on the wire."""
    layer, at, end = first_layer(link_type), 0, length
    while layer >= 0:
        if layer == ETHERNET:
            layer, at = ethertype_at(data, at + 12, end)
        elif layer == VLAN:
            layer, at = ethertype_at(data, at + 2, end)
        elif layer == COOKED:
            layer, at = ethertype_at(data, at + 14, end)
        elif layer == COOKED_2:
            layer, at = cooked_2(data, at, end)
        elif layer == LLC:
            layer, at = llc(data, at, end)
        elif layer == MPLS:
            layer, at = mpls(data, at, end)
        elif layer == PPPOE:
            layer, at = PPP, at + 6
        elif layer == PPP:
            layer, at = ppp(data, at, end)
        elif layer == LOOPBACK:
            layer, at = loopback(data, at, end)
        elif layer == ERSPAN_2:
            layer, at = ETHERNET, at + 8
        elif layer == ERSPAN_3:
            layer, at = erspan_3(data, at, end)
        elif layer == GRE:
            layer, at = gre(data, at, end)
        elif layer == TRANSPORT:
            layer, at = transport(data, at, end, packet)
        else:
            if layer == IP:
                layer = ip_version(data, at, end)
                if layer < 0:
                    break
            if packet["depth"] == MAX_DEPTH:
                return TOO_DEEP
            packet["depth"] += 1
            if layer == IPV4:
                layer, at = ipv4(data, at, end, timestamp_ns, ring, written, packet)
            else:
                layer, at = ipv6(data, at, end, timestamp_ns, ring, written, packet)
            end = packet["network_offset"] + packet["ip_length"]
            data = data[: min(data.size, end)]  # without the link's padding
    if layer == NOT_IP and packet["depth"] > 0:
        return FLOW
    return layer
