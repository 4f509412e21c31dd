"""Fragments that come before their first: they wait for it, for a while and in a bounded ring.

A fragment joins its flow behind its first and at the time of that, whatever it waited: only then
is it known where it belongs, and a flow's packets stay in order of time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled
from feature_store.traffic.packets.fragment_memory import (
    CONTENT_BYTES,
    HELD_BYTES,
    HOLDS,
    IDENTIFICATION,
    JOINED,
    RELEASED,
    WAITING,
    WITHOUT_FIRST,
    WITHOUT_ROOM,
    Fragments,
    copy_flow,
)

HOLD_NS = 30_000_000_000  # what Linux waits for the rest of a datagram (ipfrag_time)


@compiled
def hold(
    data: NDArray[np.uint8],
    timestamp_ns: int,
    fragments: Fragments,
    packet: np.void,
) -> bool:
    """Let a later fragment wait, of which an identification was written down, in the place of the
    one that came longest ago. False where its headers are too long for what is kept of it."""
    if packet["payload_offset"] > HELD_BYTES - CONTENT_BYTES:
        return False
    state = fragments.state
    slot = state[HOLDS] % fragments.held.size
    state[HOLDS] += 1
    entry = fragments.held[slot]
    if entry["waits"]:
        late = timestamp_ns - entry["timestamp_ns"] > HOLD_NS
        state[WITHOUT_FIRST if late else WITHOUT_ROOM] += 1
        state[WAITING] -= 1
    entry["src_hi"], entry["src_lo"] = packet["src_hi"], packet["src_lo"]
    entry["dst_hi"], entry["dst_lo"] = packet["dst_hi"], packet["dst_lo"]
    entry["identification"] = state[IDENTIFICATION]
    entry["protocol"] = packet["protocol"]
    entry["waits"], entry["timestamp_ns"] = 1, timestamp_ns
    fragments.held_packet[slot] = packet
    captured = min(data.size, packet["payload_offset"] + CONTENT_BYTES)
    entry["captured"] = captured
    fragments.held_octets[slot, :captured] = data[:captured]
    state[WAITING] += 1
    return True


@compiled
def release(fragments: Fragments, first: np.void, behind: int) -> None:
    """Take out what waited for a first fragment: if that is of a flow, to be read, of which there
    must be room for all that wait; else, or after too long, it is given up."""
    state = fragments.state
    for back in range(min(fragments.held.size, state[HOLDS]), 0, -1):  # oldest first
        slot = (state[HOLDS] - back) % fragments.held.size
        entry = fragments.held[slot]
        if not (
            entry["waits"]
            and entry["identification"] == first["identification"]
            and entry["src_lo"] == first["src_lo"]
            and entry["dst_lo"] == first["dst_lo"]
            and entry["src_hi"] == first["src_hi"]
            and entry["dst_hi"] == first["dst_hi"]
            and entry["protocol"] == first["protocol"]
        ):
            continue
        entry["waits"] = 0
        state[WAITING] -= 1
        if not first["known"] or first["timestamp_ns"] - entry["timestamp_ns"] > HOLD_NS:
            state[WITHOUT_FIRST] += 1
            continue
        place = state[RELEASED]
        fragments.released[place] = entry
        fragments.released[place]["timestamp_ns"] = first["timestamp_ns"]
        fragments.released_packet[place] = fragments.held_packet[slot]
        copy_flow(first["flow"], fragments.released_packet[place])
        fragments.released_octets[place] = fragments.held_octets[slot]
        fragments.released_behind[place] = behind
        state[RELEASED] += 1
        state[JOINED] += 1


@compiled
def give_up(fragments: Fragments, before_ns: int) -> None:
    """Those that came before a time have waited long enough."""
    for slot in range(fragments.held.size):
        entry = fragments.held[slot]
        if entry["waits"] and entry["timestamp_ns"] < before_ns:
            entry["waits"] = 0
            fragments.state[WAITING] -= 1
            fragments.state[WITHOUT_FIRST] += 1
