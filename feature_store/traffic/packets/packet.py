"""A decoded packet."""

from __future__ import annotations

import ipaddress

import numpy as np

# What a decoder finds out about one packet. Where tunnels nest, all but `depth` and `wire_length`
# are about the innermost IP packet. Offsets count from the packet's first captured byte.
PACKET = np.dtype(
    [
        ("src_hi", "u8"),  # 16-byte addresses as two big-endian halves; IPv4 is ::ffff:a.b.c.d
        ("src_lo", "u8"),
        ("dst_hi", "u8"),
        ("dst_lo", "u8"),
        ("src_mac", "u8"),  # of the outermost Ethernet header, 0 without one: for labels only
        ("dst_mac", "u8"),
        ("src_port", "u2"),  # 0 where the protocol has none
        ("dst_port", "u2"),
        ("protocol", "u1"),  # IANA number of what follows the IP headers
        ("version", "u1"),  # 4 or 6; 0 when no IP header was found
        ("outcome", "u1"),  # an `Outcome`
        ("tcp_flags", "u1"),
        ("fragment", "u1"),  # 0 whole, 1 first fragment, 2 later fragment
        ("depth", "u1"),  # IP headers seen
        ("network_offset", "i4"),
        ("transport_offset", "i4"),
        ("payload_offset", "i4"),
        ("payload_length", "i4"),  # on the wire; the capture may hold less
        ("ip_length", "i4"),  # IP header and all that it carries, without link padding
        ("wire_length", "i4"),  # the whole frame
    ]
)

IPV4_MAPPED = 0xFFFF_0000_0000  # lower half of ::ffff:0.0.0.0


def address_text(hi: int, lo: int) -> str:
    """The usual notation of a 16-byte address; IPv4 where it is a mapped one."""
    address = ipaddress.IPv6Address((int(hi) << 64) | int(lo))
    return str(address.ipv4_mapped or address)
