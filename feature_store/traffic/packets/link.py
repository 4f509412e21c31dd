"""The layers below IP: Ethernet, cooked captures, loopback, VLAN tags, MPLS, PPP.

Each function gives the next layer and where it begins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled, int64
from feature_store.traffic.packets.layer import (
    COOKED,
    COOKED_2,
    ETHERNET,
    IP,
    IPV4,
    IPV6,
    LINK_TRUNCATED,
    LINK_UNSUPPORTED,
    LLC,
    LOOPBACK,
    MPLS,
    NOT_IP,
    PPP,
    PPPOE,
    VLAN,
    link_fault,
    u16,
    u32,
)


@compiled
def first_layer(link_type: int) -> int:
    """Where the walk begins, for a LINKTYPE_ number."""
    if link_type == 1:
        return ETHERNET
    if link_type in (12, 14, 101, 228, 229):
        return IP
    if link_type == 113:
        return COOKED
    if link_type == 276:
        return COOKED_2
    if link_type in (0, 108):
        return LOOPBACK
    if link_type in (9, 50):
        return PPP
    if link_type == 51:
        return PPPOE
    return LINK_UNSUPPORTED


@compiled
def layer_of_ethertype(ethertype: int) -> int:
    """What follows an EtherType."""
    if ethertype == 0x0800:
        return IPV4
    if ethertype == 0x86DD:
        return IPV6
    if ethertype in (0x8100, 0x88A8, 0x9100, 0x9200):  # 802.1Q, 802.1ad and two older QinQ tags
        return VLAN
    if ethertype in (0x8847, 0x8848):
        return MPLS
    if ethertype == 0x8864:
        return PPPOE
    if ethertype == 0x6558:  # transparent Ethernet bridging
        return ETHERNET
    if ethertype == 0x880B:
        return PPP
    if ethertype < 0x600:  # an 802.3 length
        return LLC
    return NOT_IP


@compiled
def ethertype_at(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """The layer that the two bytes at `at` announce, behind them."""
    if at + 2 > data.size:
        return link_fault(at + 2, end), at
    return layer_of_ethertype(u16(data, at)), at + 2


@compiled
def cooked_2(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """LINKTYPE_LINUX_SLL2: the EtherType comes first."""
    if at + 20 > data.size:
        return link_fault(at + 20, end), at
    return layer_of_ethertype(u16(data, at)), at + 20


@compiled
def llc(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """IEEE 802.2, of which only SNAP carries IP (RFC 1042)."""
    if at + 8 > data.size:
        return (NOT_IP, at) if at + 8 > end else (LINK_TRUNCATED, at)
    snap = u32(data, at) == 0xAAAA0300 and u16(data, at + 4) == 0  # RFC 1042
    if snap and u16(data, at + 6) >= 0x600:
        return layer_of_ethertype(u16(data, at + 6)), at + 8
    return NOT_IP, at


@compiled
def mpls(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """Labels down to the bottom of the stack (RFC 3032); the content is guessed from its nibble."""
    while at + 5 <= data.size:
        bottom = data[at + 2] & 1
        at += 4
        if bottom:
            nibble = data[at] >> 4
            if nibble == 4:
                return IPV4, at
            if nibble == 6:
                return IPV6, at
            # RFC 4448: a pseudowire's control word, then Ethernet
            return (ETHERNET, at + 4) if nibble == 0 else (NOT_IP, at)
    return link_fault(at + 5, end), at


@compiled
def ppp(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """A PPP protocol field (RFC 1661), with or without address and control."""
    if at + 2 <= data.size and u16(data, at) == 0xFF03:  # RFC 1662
        at += 2
    if at + 1 > data.size:
        return link_fault(at + 1, end), at
    if data[at] & 1:  # a compressed protocol field
        protocol, at = int64(data[at]), at + 1
    elif at + 2 > data.size:
        return link_fault(at + 2, end), at
    else:
        protocol, at = u16(data, at), at + 2
    if protocol == 0x21:
        return IPV4, at
    if protocol == 0x57:
        return IPV6, at
    if protocol in (0x281, 0x283):
        return MPLS, at
    return NOT_IP, at


@compiled
def loopback(data: NDArray[np.uint8], at: int, end: int) -> tuple[int, int]:
    """BSD loopback: an address family, in the byte order of the capturing machine or not."""
    if at + 4 > data.size:
        return link_fault(at + 4, end), at
    family = u32(data, at)
    if family > 0xFFFF:  # the byte order is the capturing machine's
        family = (family >> 24) | ((family >> 8) & 0xFF00)
    if family == 2:
        return IPV4, at + 4
    if family in (10, 24, 28, 30):  # AF_INET6 of Linux, NetBSD, FreeBSD, macOS
        return IPV6, at + 4
    return NOT_IP, at
