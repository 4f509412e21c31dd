"""Which flow a packet belongs to: a hash table with timeouts, told top to bottom.

Time is the packets' own. Each packet first ends what has been quiet too long at its time, oldest
first, and only then joins or opens a flow; so what comes out depends on the packets and their
order alone, not on how they were cut into batches. `reference` tells the same with dictionaries.

A connection that said FIN both ways, or RST, lingers: its last acknowledgements still belong to
it, and only a new SYN, or silence, makes room for the next one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled, int64
from feature_store.traffic.flows.flow import FLOW, EndReason
from feature_store.traffic.packets.outcome import Outcome

IS_FLOW = int(Outcome.FLOW)
OPEN, FIN, RST = int(EndReason.OPEN), int(EndReason.FIN), int(EndReason.RST)
IDLE, ACTIVE, EVICTED = int(EndReason.IDLE), int(EndReason.ACTIVE), int(EndReason.EVICTED)
TCP_FIN, TCP_SYN, TCP_RST, TCP_ACK = 1, 2, 4, 16
# Entries of `Tracker.state`.
FREE, FINISHED, LIVE, NUMBER = range(4)
# A packet ends at most its own flow and, to make room, one more.
MOST_ENDS_BESIDE_TIMEOUTS = 2


class Limits(NamedTuple):
    """When flows end."""

    idle_ns: int
    active_ns: int
    linger_ns: int
    max_flows: int
    kept: int
    seed: int  # of the hash, so that nobody can choose addresses that collide


class Tracker(NamedTuple):
    """The table's memory. A slot is free, live or finished; a finished one waits to be read.

    The live slots form two rings in order of use, of open and of lingering flows; each ring's
    sentinel is one of the two slots behind the last.
    """

    flows: NDArray[np.void]  # (slots + 2,) FLOW
    hashes: NDArray[np.uint64]  # (slots,)
    before: NDArray[np.int32]  # (slots + 2,) used less recently
    after: NDArray[np.int32]  # (slots + 2,) used more recently
    buckets: NDArray[np.int32]  # (power of two,) slot or -1
    free: NDArray[np.int32]  # (slots,) a stack
    finished: NDArray[np.int32]  # (room,) in order of their end
    state: NDArray[np.int64]  # (4,)


class Steps(NamedTuple):
    """What happened to each packet of a batch."""

    slot: NDArray[np.int32]  # its flow's slot, -1 none
    place: NDArray[np.int32]  # its place among the flow's first packets, -1 beyond them
    direction: NDArray[np.int8]  # +1, -1
    gap_ns: NDArray[np.int64]  # since the flow's packet before

    @classmethod
    def empty(cls, packets: int) -> Steps:
        """For a batch of so many packets."""
        slot, place = np.full((2, packets), -1, np.int32)
        return cls(slot, place, np.zeros(packets, np.int8), np.zeros(packets, np.int64))


def new_tracker(max_flows: int, room: int) -> Tracker:
    """An empty table for `max_flows` live flows; `room` finished ones wait to be read."""
    slots = max_flows + room
    before = np.arange(slots + 2, dtype=np.int32)
    return Tracker(
        flows=np.zeros(slots + 2, FLOW),
        hashes=np.zeros(slots, np.uint64),
        before=before,
        after=before.copy(),
        buckets=np.full(1 << (2 * max_flows - 1).bit_length(), -1, np.int32),
        free=np.arange(slots - 1, -1, -1, dtype=np.int32),
        finished=np.zeros(room, np.int32),
        state=np.array([slots, 0, 0, 0], np.int64),
    )


@compiled
def track(
    tracker: Tracker,
    limits: Limits,
    packets: NDArray[np.void],
    timestamp_ns: NDArray[np.int64],
    begin: int,
    steps: Steps,
) -> int:
    """Take packets from `begin` on and fill their `steps`; give the first one not taken, which
    lies before the end only when the finished flows must be read first."""
    for i in range(begin, packets.size):
        packet, now = packets[i], timestamp_ns[i]
        if packet["outcome"] != IS_FLOW:
            continue
        if not expire(tracker, limits, now):
            return i
        if tracker.finished.size - tracker.state[FINISHED] < MOST_ENDS_BESIDE_TIMEOUTS:
            return i
        code = _hash(packet, np.uint64(limits.seed))
        slot, forward = _find(tracker, packet, code)
        if slot >= 0:
            reason = _reason_to_split(tracker.flows[slot], limits, packet, now)
            if reason != OPEN:
                _end(tracker, slot, reason)
                slot = -1
        if slot < 0:
            if tracker.state[LIVE] == limits.max_flows:
                _evict(tracker)
            slot, forward = _open(tracker, packet, code, now), True
        _add(tracker, limits, slot, forward, packet, now, i, steps)
    return packets.size


@compiled
def expire(tracker: Tracker, limits: Limits, now: int) -> bool:
    """End the flows that have been quiet too long at `now`; False when there is no room."""
    slots = tracker.hashes.size
    for sentinel, timeout in ((slots, limits.idle_ns), (slots + 1, limits.linger_ns)):
        oldest = tracker.after[sentinel]
        while oldest != sentinel and now - tracker.flows[oldest]["last_ns"] > timeout:
            if tracker.state[FINISHED] == tracker.finished.size:
                return False
            _end(tracker, oldest, IDLE)
            oldest = tracker.after[sentinel]
    return True


@compiled
def end_all(tracker: Tracker, reason: int) -> bool:
    """End every flow, the least recently used first; False when there is no room."""
    slots = tracker.hashes.size
    for sentinel in (slots, slots + 1):
        while tracker.after[sentinel] != sentinel:
            if tracker.state[FINISHED] == tracker.finished.size:
                return False
            _end(tracker, tracker.after[sentinel], reason)
    return True


@compiled
def _reason_to_split(flow: np.void, limits: Limits, packet: np.void, now: int) -> int:
    """Why this packet does not belong to the flow that has its key; OPEN when it does."""
    lingering = flow["end_reason"] != OPEN
    quiet = limits.linger_ns if lingering else limits.idle_ns
    # Packets come out of order by a little; a clock that jumped back is another recording.
    if now - flow["last_ns"] > quiet or flow["last_ns"] - now > limits.idle_ns:
        return IDLE
    if now - flow["first_ns"] > limits.active_ns:
        return ACTIVE
    if lingering and packet["tcp_flags"] & (TCP_SYN | TCP_ACK) == TCP_SYN:
        return FIN  # `_end` keeps the reason why it lingers
    return OPEN


@compiled
def _open(tracker: Tracker, packet: np.void, code: np.uint64, now: int) -> int:
    tracker.state[FREE] -= 1
    slot = tracker.free[tracker.state[FREE]]
    flow = tracker.flows[slot]
    flow["number"] = tracker.state[NUMBER]
    flow["src_hi"], flow["src_lo"] = packet["src_hi"], packet["src_lo"]
    flow["dst_hi"], flow["dst_lo"] = packet["dst_hi"], packet["dst_lo"]
    flow["src_mac"], flow["dst_mac"] = packet["src_mac"], packet["dst_mac"]
    flow["src_port"], flow["dst_port"] = packet["src_port"], packet["dst_port"]
    flow["protocol"], flow["version"] = packet["protocol"], packet["version"]
    flow["end_reason"], flow["fins"], flow["kept"] = OPEN, 0, 0
    flow["first_ns"], flow["last_ns"] = now, now
    flow["packets"][:] = 0
    flow["bytes"][:] = 0
    tracker.state[NUMBER] += 1
    tracker.state[LIVE] += 1
    mask = tracker.buckets.size - 1
    bucket = int64(code) & mask
    while tracker.buckets[bucket] >= 0:
        bucket = (bucket + 1) & mask
    tracker.buckets[bucket] = slot
    tracker.hashes[slot] = code
    _use(tracker, slot, tracker.hashes.size)
    return int64(slot)


@compiled
def _add(
    tracker: Tracker, limits: Limits, slot: int, forward: bool, packet: np.void, now: int,
    i: int, steps: Steps,
) -> None:  # fmt: skip
    flow = tracker.flows[slot]
    way = 0 if forward else 1
    steps.slot[i] = slot
    steps.direction[i] = 1 - 2 * way
    steps.gap_ns[i] = max(now - flow["last_ns"], 0)
    if flow["kept"] < limits.kept:
        steps.place[i] = flow["kept"]
        flow["kept"] += 1
    flow["last_ns"] = max(now, flow["last_ns"])
    flow["packets"][way] += 1
    flow["bytes"][way] += packet["ip_length"]
    if packet["protocol"] == 6 and flow["end_reason"] == OPEN:
        if packet["tcp_flags"] & TCP_FIN:
            flow["fins"] |= np.uint8(1 << way)
        if packet["tcp_flags"] & TCP_RST:
            flow["end_reason"] = RST
        elif flow["fins"] == 3:
            flow["end_reason"] = FIN
    _unlink(tracker, slot)
    _use(tracker, slot, tracker.hashes.size + (flow["end_reason"] != OPEN))


@compiled
def _evict(tracker: Tracker) -> None:
    """Make room: a flow that is over anyway, or the least recently used."""
    lingering = tracker.hashes.size + 1
    oldest = tracker.after[lingering]
    if oldest == lingering:
        oldest = tracker.after[lingering - 1]
    _end(tracker, oldest, EVICTED)


@compiled
def _end(tracker: Tracker, slot: int, reason: int) -> None:
    if tracker.flows[slot]["end_reason"] == OPEN:
        tracker.flows[slot]["end_reason"] = reason
    _unlink(tracker, slot)
    _forget(tracker, slot)
    tracker.finished[tracker.state[FINISHED]] = slot
    tracker.state[FINISHED] += 1
    tracker.state[LIVE] -= 1


@compiled
def _use(tracker: Tracker, slot: int, sentinel: int) -> None:
    """Make a slot the most recently used of a ring."""
    newest = tracker.before[sentinel]
    tracker.before[slot], tracker.after[slot] = newest, sentinel
    tracker.after[newest], tracker.before[sentinel] = slot, slot


@compiled
def _unlink(tracker: Tracker, slot: int) -> None:
    before, after = tracker.before[slot], tracker.after[slot]
    tracker.after[before], tracker.before[after] = after, before


@compiled
def _find(tracker: Tracker, packet: np.void, code: np.uint64) -> tuple[int, bool]:
    """The slot of the packet's flow, or -1, and whether the packet goes the flow's way."""
    mask = tracker.buckets.size - 1
    bucket = int64(code) & mask
    while tracker.buckets[bucket] >= 0:
        slot = tracker.buckets[bucket]
        if tracker.hashes[slot] == code:
            flow = tracker.flows[slot]
            if flow["protocol"] == packet["protocol"]:
                if _same(flow, packet):
                    return slot, True
                if _opposite(flow, packet):
                    return slot, False
        bucket = (bucket + 1) & mask
    return -1, True


@compiled
def _same(flow: np.void, packet: np.void) -> bool:
    return bool(
        flow["src_lo"] == packet["src_lo"]
        and flow["dst_lo"] == packet["dst_lo"]
        and flow["src_port"] == packet["src_port"]
        and flow["dst_port"] == packet["dst_port"]
        and flow["src_hi"] == packet["src_hi"]
        and flow["dst_hi"] == packet["dst_hi"]
    )


@compiled
def _opposite(flow: np.void, packet: np.void) -> bool:
    return bool(
        flow["src_lo"] == packet["dst_lo"]
        and flow["dst_lo"] == packet["src_lo"]
        and flow["src_port"] == packet["dst_port"]
        and flow["dst_port"] == packet["src_port"]
        and flow["src_hi"] == packet["dst_hi"]
        and flow["dst_hi"] == packet["src_hi"]
    )


@compiled
def _forget(tracker: Tracker, slot: int) -> None:
    """Take a slot out of the buckets, moving up what it had pushed on (Knuth 6.4, R)."""
    buckets, mask = tracker.buckets, tracker.buckets.size - 1
    hole = int64(tracker.hashes[slot]) & mask
    while buckets[hole] != slot:
        hole = (hole + 1) & mask
    probe = hole
    while True:
        probe = (probe + 1) & mask
        if buckets[probe] < 0:
            break
        home = int64(tracker.hashes[buckets[probe]]) & mask
        if (probe - home) & mask >= (probe - hole) & mask:
            buckets[hole] = buckets[probe]
            hole = probe
    buckets[hole] = -1


@compiled
def _hash(packet: np.void, seed: np.uint64) -> np.uint64:
    """The same for both directions: the two ends are mixed apart and added."""
    source = _mix(packet["src_hi"] ^ seed, packet["src_lo"], np.uint64(packet["src_port"]))
    target = _mix(packet["dst_hi"] ^ seed, packet["dst_lo"], np.uint64(packet["dst_port"]))
    return _mix(source + target, np.uint64(packet["protocol"]), np.uint64(0))


@compiled
def _mix(high: np.uint64, low: np.uint64, port: np.uint64) -> np.uint64:
    # The multipliers and shifts of splitmix64.
    x = (high ^ (port << np.uint64(48))) * np.uint64(0x9E3779B97F4A7C15) + low
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
