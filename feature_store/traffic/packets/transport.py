"""TCP, UDP, ICMP and SCTP headers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled, int64
from feature_store.traffic.packets.layer import FLOW, TRANSPORT_MALFORMED, transport_fault, u16
from feature_store.traffic.packets.tunnel import udp_tunnel


@compiled
def transport(data: NDArray[np.uint8], at: int, end: int, packet: np.void) -> tuple[int, int]:
    """The end of the walk, unless a datagram is a tunnel."""
    protocol = packet["protocol"]
    if protocol == 6:
        header = 20
    elif protocol in (1, 17, 58):
        header = 8
    elif protocol == 132:
        header = 12
    else:
        return FLOW, at
    if at + header > data.size:
        return transport_fault(at + header, end), at
    if protocol == 6:  # RFC 9293
        header = int64(data[at + 12] >> 4) * 4
        if header < 20 or at + header > end:
            return TRANSPORT_MALFORMED, at
        packet["tcp_flags"] = data[at + 13]
    if protocol not in (1, 58):
        packet["src_port"], packet["dst_port"] = u16(data, at), u16(data, at + 2)
    packet["payload_offset"], packet["payload_length"] = at + header, end - at - header
    if protocol == 17:
        claimed = u16(data, at + 4)
        if 0 < claimed < 8:
            return TRANSPORT_MALFORMED, at
        return udp_tunnel(data, at + 8, packet["dst_port"])
    return FLOW, at
