"""From captured bytes to flows' keys: every layer of a packet, compiled, a batch at a time.

The kernel is a walk from layer to layer (`layer.py`), outermost first. Content that is not IP,
found inside a tunnel, leaves the packet to the tunnel's own flow.

`reference.decode_reference` tells the same in plain Python.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.compiled import compiled
from feature_store.traffic.packets.fragment_memory import (
    FIRSTS,
    HELD_BYTES,
    JOINED,
    RELEASED,
    WAITING,
    WITHOUT_FIRST,
    WITHOUT_ROOM,
    Fragments,
    new_fragments,
)
from feature_store.traffic.packets.fragments import remember_flow
from feature_store.traffic.packets.held_fragments import give_up, hold, release
from feature_store.traffic.packets.ip import ip_version, ipv4, ipv6
from feature_store.traffic.packets.layer import (
    COOKED,
    COOKED_2,
    ERSPAN_2,
    ERSPAN_3,
    ETHERNET,
    FLOW,
    FRAGMENT_WAITS,
    FRAGMENT_WITHOUT_FIRST,
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
from feature_store.traffic.packets.outcome import Outcome
from feature_store.traffic.packets.packet import PACKET
from feature_store.traffic.packets.transport import transport
from feature_store.traffic.packets.tunnel import erspan_3, gre

MAX_DEPTH = 8
END_OF_TIME_NS = 2**63 - 1
MOST_WIRE_BYTES = 2**31 - 1  # what a record's length can claim is cut to what `PACKET` holds


class PacketDecoder:
    """Decodes batches in capture order, remembering fragments between them.

    Args:
        fragments: how many of the newest first fragments are remembered, and how many of the
            newest that came before their first may wait for it; at least one.
    """

    def __init__(self, *, fragments: int = 512) -> None:
        if fragments < 1:
            raise ValueError(f"fragments must be at least 1, not {fragments}")
        self._fragments = new_fragments(fragments, fragments)
        self._outcomes = np.zeros(len(Outcome) + 1, np.int64)

    @property
    def outcomes(self) -> Counter[Outcome]:
        """Packets so far by what became of them; their sum is the number of packets decoded."""
        return Counter({each: int(n) for each in Outcome if (n := self._outcomes[each])})

    def decode(self, batch: PacketBatch) -> NDArray[np.void]:
        """(n,) `PACKET`, one for each packet of the batch. Never raises on any bytes."""
        return self._decode(batch)[0]

    def decode_for_flows(self, batch: PacketBatch) -> tuple[PacketBatch, NDArray[np.void]]:
        """The batch and its `PACKET`s, as the flow table takes them: with each fragment that had
        waited for its first once more, behind that. Never raises on any bytes."""
        packets, released = self._decode(batch)
        if not released:
            return batch, packets
        behind = np.concatenate([each.behind for each in released]) + 1
        late = PacketBatch.concatenate([each.batch for each in released])
        rows = np.insert(np.arange(len(batch)), behind, len(batch) + np.arange(len(late)))
        found = np.concatenate([packets, *(each.packets for each in released)])
        return PacketBatch.concatenate([batch, late])[rows], found[rows]

    def give_up(self, before_ns: int = END_OF_TIME_NS) -> None:
        """Fragments that came before a time wait no more for their first."""
        give_up(self._fragments, before_ns)
        self._count()

    def _decode(self, batch: PacketBatch) -> tuple[NDArray[np.void], list[_Released]]:
        packets = np.zeros(len(batch), PACKET)
        released: list[_Released] = []
        begin = 0
        while begin < len(batch):
            begin = decode_packets(
                batch.data,
                batch.offset,
                batch.captured,
                batch.length,
                batch.timestamp_ns,
                batch.link_type,
                begin,
                self._fragments,
                packets,
            )
            if self._fragments.state[RELEASED]:
                released.append(_Released.taken(self._fragments, batch))
        self._outcomes += np.bincount(packets["outcome"], minlength=len(self._outcomes))
        self._count()
        return packets, released

    def _count(self) -> None:
        """Move what waited to what became of it."""
        state = self._fragments.state
        for entry, outcome in (
            (JOINED, Outcome.FLOW),
            (WITHOUT_FIRST, Outcome.FRAGMENT_WITHOUT_FIRST),
            (WITHOUT_ROOM, Outcome.FRAGMENT_WITHOUT_ROOM),
        ):
            self._outcomes[outcome] += state[entry]
            self._outcomes[Outcome.FRAGMENT_WAITS] -= state[entry]
            state[entry] = 0


@dataclass(frozen=True)
class _Released:
    """Fragments whose first has come.

    Shapes:
        behind: (n,) which packet of a batch that was; packets: (n,) `PACKET`
    """

    batch: PacketBatch
    packets: NDArray[np.void]
    behind: NDArray[np.int64]

    @classmethod
    def taken(cls, fragments: Fragments, batch: PacketBatch) -> _Released:
        """Those that wait to be read, which then do not any more; their firsts are of a batch."""
        count = int(fragments.state[RELEASED])
        fragments.state[RELEASED] = 0
        held = fragments.released[:count].copy()
        packets = fragments.released_packet[:count].copy()
        packets["outcome"] = Outcome.FLOW
        behind = fragments.released_behind[:count].copy()
        late = PacketBatch(
            data=fragments.released_octets[:count].reshape(-1).copy(),
            offset=np.arange(count, dtype=np.int64) * HELD_BYTES,
            captured=held["captured"].astype(np.int64),
            length=packets["wire_length"].astype(np.int64),
            timestamp_ns=held["timestamp_ns"].copy(),
            link_type=batch.link_type[behind],
        )
        return cls(late, packets, behind)


@compiled
def decode_packets(
    data: NDArray[np.uint8],
    offset: NDArray[np.int64],
    captured: NDArray[np.int64],
    length: NDArray[np.int64],
    timestamp_ns: NDArray[np.int64],
    link_type: NDArray[np.int64],
    begin: int,
    fragments: Fragments,
    packets: NDArray[np.void],
) -> int:
    """Fill `packets`, which are zero, from `begin` on; give the first one not decoded, which lies
    before the end only when the released fragments must be read first."""
    firsts, state = fragments.firsts, fragments.state
    for i in range(begin, offset.size):
        if state[RELEASED] + state[WAITING] > fragments.released.size:
            return i
        packet = packets[i]
        end = min(length[i], MOST_WIRE_BYTES)
        packet["wire_length"] = end
        bytes_ = data[offset[i] : offset[i] + captured[i]]
        if link_type[i] == 1 and bytes_.size >= 12:
            packet["dst_mac"] = (u16(bytes_, 0) << 32) | u32(bytes_, 2)
            packet["src_mac"] = (u16(bytes_, 6) << 32) | u32(bytes_, 8)
        before = state[FIRSTS]
        outcome = _walk(bytes_, end, link_type[i], timestamp_ns[i], firsts, state, packet)
        if outcome == FRAGMENT_WAITS and not hold(bytes_, timestamp_ns[i], fragments, packet):
            outcome = FRAGMENT_WITHOUT_FIRST
        packet["outcome"] = -outcome
        for entry in range(before, state[FIRSTS]):
            first = firsts[entry % firsts.size]
            remember_flow(first, packet, outcome == FLOW)
            if state[WAITING]:
                release(fragments, first, i)
    return offset.size


@compiled
def _walk(
    data: NDArray[np.uint8],
    length: int,
    link_type: int,
    timestamp_ns: int,
    firsts: NDArray[np.void],
    state: NDArray[np.int64],
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
                layer, at = ipv4(data, at, end, timestamp_ns, firsts, state, packet)
            else:
                layer, at = ipv6(data, at, end, timestamp_ns, firsts, state, packet)
            end = packet["network_offset"] + packet["ip_length"]
            data = data[: min(data.size, end)]  # without the link's padding
    if layer == NOT_IP and packet["depth"] > 0:
        return FLOW
    return layer
