"""What carries packets inside packets: GRE, VXLAN, GENEVE, GTP-U.

Each function gives the next layer and where it begins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled, int64
from feature_store.traffic.packets.layer import (
    ERSPAN_2,
    ERSPAN_3,
    ETHERNET,
    FLOW,
    IP,
    NOT_IP,
    link_fault,
    transport_fault,
    u16,
)
from feature_store.traffic.packets.link import layer_of_ethertype

VXLAN_PORT, GENEVE_PORT, GTP_U_PORT = 4789, 6081, 2152  # RFC 7348, RFC 8926, 3GPP TS 29.281


@compiled
def gre(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """RFC 2784, RFC 2890; version 1 is PPTP's, RFC 2637."""
    if at + 4 > data.size:
        return transport_fault(at + 4, end), at
    flags, protocol = u16(data, at), u16(data, at + 2)
    if flags & 0x4000:  # RFC 1701's source routes
        return NOT_IP, at
    header = 4
    for bit in (0x8000, 0x2000, 0x1000):  # checksum, key, sequence number
        if flags & bit:
            header += 4
    if flags & 7 == 1 and flags & 0x80:
        header += 4
    if protocol == 0x88BE:
        return (ERSPAN_2 if flags & 0x1000 else ETHERNET), at + header
    if protocol == 0x22EB:
        return ERSPAN_3, at + header
    if protocol < 0x600:
        return NOT_IP, at
    return layer_of_ethertype(protocol), at + header


@compiled
def erspan_3(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """ERSPAN type III, whose header has an optional part."""
    if at + 12 > data.size:
        return link_fault(at + 12, end), at
    return ETHERNET, at + (20 if data[at + 11] & 1 else 12)


@compiled
def udp_tunnel(data: NDArray[np.uint8], at: int, port: int) -> tuple[int, int]:
    """What a datagram to a tunnel's port carries, if its header is that tunnel's."""
    if at + 8 > data.size:
        return FLOW, at
    if port == VXLAN_PORT and data[at] & 8 and data[at + 7] == 0:
        return ETHERNET, at + 8
    if port == GENEVE_PORT and data[at] >> 6 == 0:
        ethertype = u16(data, at + 2)
        if ethertype in (0x6558, 0x0800, 0x86DD):
            return layer_of_ethertype(ethertype), at + 8 + int64(data[at] & 63) * 4
    if port == GTP_U_PORT and data[at] >> 4 == 3 and data[at + 1] == 255:  # version 1, a user PDU
        flags, at = data[at] & 7, at + 8
        if flags:
            extension = flags & 4 and at + 4 <= data.size and data[at + 3] != 0
            at += 4
            while extension:
                if at + 1 > data.size or data[at] == 0:
                    return FLOW, at
                at += int64(data[at]) * 4
                extension = at <= data.size and data[at - 1] != 0
        if at < data.size and data[at] >> 4 in (4, 6):
            return IP, at
    return FLOW, at
