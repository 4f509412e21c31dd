"""IPv4 and IPv6 headers, with options and extension headers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled, int64
from feature_store.traffic.packets.fragments import attribute_fragment, carry
from feature_store.traffic.packets.layer import (
    IPV4,
    IPV6,
    NETWORK_MALFORMED,
    network_fault,
    u16,
    u32,
    u64,
)
from feature_store.traffic.packets.packet import IPV4_MAPPED

MAX_EXTENSION_HEADERS = 16
AUTHENTICATION = 51  # RFC 4302, whose length counts in 4 bytes


@compiled
def ip_version(data: NDArray[np.uint8], at: int, end: int) -> int:
    """Which of the two a bare IP packet is."""
    if at >= data.size:
        return network_fault(at + 1, end)
    version = data[at] >> 4
    if version == 4:
        return IPV4
    return IPV6 if version == 6 else NETWORK_MALFORMED


@compiled
def ipv4(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    timestamp_ns: int,
    firsts: NDArray[np.void],
    state: NDArray[np.int64],
    packet: np.void,
) -> tuple[int, int]:
    """RFC 791, with the authentication header of RFC 4302 before what it protects."""
    packet["network_offset"], packet["ip_length"] = at, max(end - at, 0)
    if at + 20 > data.size:
        return network_fault(at + 20, end), at
    header, total = int64(data[at] & 15) * 4, u16(data, at + 2)
    if total == 0:  # segmentation was left to the network card
        total = end - at
    if data[at] >> 4 != 4 or header < 20 or total < header:
        return NETWORK_MALFORMED, at
    packet["ip_length"] = total
    packet["version"] = 4
    packet["src_hi"], packet["src_lo"] = 0, IPV4_MAPPED | u32(data, at + 12)
    packet["dst_hi"], packet["dst_lo"] = 0, IPV4_MAPPED | u32(data, at + 16)
    protocol = int64(data[at + 9])
    identification, fragment = u16(data, at + 4), u16(data, at + 6)
    if fragment & 0x3FFF:
        first, at = fragment & 0x1FFF == 0, at + header
        return attribute_fragment(
            at, total - header, protocol, identification, first, timestamp_ns, firsts, state, packet
        )  # fmt: skip
    at, end = at + header, at + total
    if protocol == AUTHENTICATION:
        if at + 8 > min(data.size, end):
            return network_fault(at + 8, end), at
        protocol = int64(data[at])
        at += (int64(data[at + 1]) + 2) * 4
        if at > end:
            return NETWORK_MALFORMED, at
    return carry(at, end - at, protocol, packet)


@compiled
def ipv6(
    data: NDArray[np.uint8],
    at: int,
    end: int,
    timestamp_ns: int,
    firsts: NDArray[np.void],
    state: NDArray[np.int64],
    packet: np.void,
) -> tuple[int, int]:
    """RFC 8200, with the extension headers of RFC 7045."""
    packet["network_offset"], packet["ip_length"] = at, max(end - at, 0)
    if at + 40 > data.size:
        return network_fault(at + 40, end), at
    if data[at] >> 4 != 6:
        return NETWORK_MALFORMED, at
    carried = u16(data, at + 4)
    if carried:  # 0: a jumbogram, or segmentation was left to the network card
        packet["ip_length"] = 40 + carried
        end = at + 40 + carried
    packet["version"] = 6
    packet["src_hi"], packet["src_lo"] = u64(data, at + 8), u64(data, at + 16)
    packet["dst_hi"], packet["dst_lo"] = u64(data, at + 24), u64(data, at + 32)
    protocol, at = int64(data[at + 6]), at + 40
    for _ in range(MAX_EXTENSION_HEADERS):
        if protocol not in (0, 43, 44, 51, 60, 135, 139, 140):
            return carry(at, end - at, protocol, packet)
        if at + 8 > min(data.size, end):
            return network_fault(at + 8, end), at
        following = int64(data[at])
        if protocol == 44:
            fragment, identification = u16(data, at + 2), u32(data, at + 4)
            at += 8
            if fragment & 0xFFF9:
                first = fragment & 0xFFF8 == 0
                return attribute_fragment(
                    at, end - at, following, identification, first, timestamp_ns, firsts, state,
                    packet,
                )  # fmt: skip
        elif protocol == AUTHENTICATION:
            at += (int64(data[at + 1]) + 2) * 4
        else:
            at += (int64(data[at + 1]) + 1) * 8
        protocol = following
        if at > end:
            return NETWORK_MALFORMED, at
    return NETWORK_MALFORMED, at
