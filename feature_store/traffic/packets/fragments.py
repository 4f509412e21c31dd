"""Fragments of IP packets: only the first has ports, the others follow it to its flow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled
from feature_store.traffic.packets.fragment_memory import FIRSTS, IDENTIFICATION, copy_flow
from feature_store.traffic.packets.layer import (
    FLOW,
    FRAGMENT_WAITS,
    FRAGMENT_WITHOUT_FIRST,
    GRE,
    IPV4,
    IPV6,
    TRANSPORT,
)

FRAGMENT_LIFETIME_NS = 60_000_000_000  # RFC 8200 section 4.5


@compiled
def attribute_fragment(
    at: int,
    carried: int,
    protocol: int,
    identification: int,
    first: bool,
    timestamp_ns: int,
    ring: NDArray[np.void],
    state: NDArray[np.int64],
    packet: np.void,
) -> tuple[int, int]:
    """Remember a first fragment; find the flow of a later one, newest first."""
    layer, at = carry(at, carried, protocol, packet)
    written = state[FIRSTS]
    if first:
        packet["fragment"] = 1
        entry = ring[written % ring.size]
        state[FIRSTS] += 1
        entry["src_hi"], entry["src_lo"] = packet["src_hi"], packet["src_lo"]
        entry["dst_hi"], entry["dst_lo"] = packet["dst_hi"], packet["dst_lo"]
        entry["identification"], entry["protocol"] = identification, protocol
        entry["timestamp_ns"], entry["known"] = timestamp_ns, 0
        return layer, at
    packet["fragment"] = 2
    for back in range(1, min(ring.size, written) + 1):
        entry = ring[(written - back) % ring.size]
        if (
            entry["identification"] == identification
            and entry["src_lo"] == packet["src_lo"]
            and entry["dst_lo"] == packet["dst_lo"]
            and entry["src_hi"] == packet["src_hi"]
            and entry["dst_hi"] == packet["dst_hi"]
            and entry["protocol"] == protocol
        ):
            if timestamp_ns - entry["timestamp_ns"] > FRAGMENT_LIFETIME_NS:
                break
            if not entry["known"]:
                return FRAGMENT_WITHOUT_FIRST, at
            copy_flow(entry["flow"], packet)
            return FLOW, at
    state[IDENTIFICATION] = identification
    return FRAGMENT_WAITS, at


@compiled
def carry(at: int, carried: int, protocol: int, packet: np.void) -> tuple[int, int]:
    """The packet as its IP header alone describes it; what is inside may refine that."""
    packet["protocol"] = protocol
    packet["src_port"], packet["dst_port"] = 0, 0
    packet["transport_offset"], packet["payload_offset"] = at, at
    packet["payload_length"] = carried
    if protocol == 4:
        return IPV4, at
    if protocol == 41:
        return IPV6, at
    if protocol == 47:
        return GRE, at
    return TRANSPORT, at


@compiled
def remember_flow(entry: np.void, packet: np.void, known: bool) -> None:
    """Complete the entry of a first fragment, once its packet is decoded."""
    entry["known"] = known
    copy_flow(packet, entry["flow"])
