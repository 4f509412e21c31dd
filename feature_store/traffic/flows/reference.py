"""The flow table again, slow and obvious: what tests compare the compiled one with."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.flows.fields import read_fields_reference
from feature_store.traffic.flows.flow import (
    HEADER_BYTES,
    PAYLOAD_BYTES,
    RAW_PACKETS,
    EndReason,
    FlowBatch,
)
from feature_store.traffic.flows.table import SECOND_NS, FlowSettings
from feature_store.traffic.packets.outcome import Outcome

TCP = 6
FIN, SYN, RST, ACK = 1, 2, 4, 16
End = tuple[int, int, int]


def flows_reference(
    batch: PacketBatch, packets: NDArray[np.void], settings: FlowSettings
) -> FlowBatch:
    """All flows of the packets, in the order in which they end; what a fresh `FlowTable` gives
    from `add` and `finish`."""
    table = ReferenceTable(settings)
    for i in range(len(batch)):
        if packets[i]["outcome"] == Outcome.FLOW:
            table.add(batch.packet(i), packets[i], int(batch.timestamp_ns[i]))
    table.finish()
    return table.columns()


@dataclass(eq=False)
class ReferenceFlow:
    """A flow and its first packets."""

    number: int
    ends: tuple[End, End]
    protocol: int
    version: int
    macs: tuple[int, int]
    first_ns: int
    last_ns: int
    reason: EndReason = EndReason.OPEN
    fins: set[int] = field(default_factory=set)
    first: list[tuple[bytes, np.void, int, int]] = field(default_factory=list)
    packets: list[int] = field(default_factory=lambda: [0, 0])
    bytes: list[int] = field(default_factory=lambda: [0, 0])


class ReferenceTable:
    """Two lists in order of use, of open and of lingering flows."""

    def __init__(self, settings: FlowSettings) -> None:
        self.settings = settings
        self.open: list[ReferenceFlow] = []
        self.lingering: list[ReferenceFlow] = []
        self.ended: list[ReferenceFlow] = []
        self.opened = 0

    def add(self, data: bytes, packet: np.void, now: int) -> None:
        """Take one packet."""
        self.expire(now)
        source = (int(packet["src_hi"]), int(packet["src_lo"]), int(packet["src_port"]))
        target = (int(packet["dst_hi"]), int(packet["dst_lo"]), int(packet["dst_port"]))
        flow = self.find((source, target), int(packet["protocol"]))
        if flow and self.must_split(flow, packet, now):
            idle = abs(now - flow.last_ns) > self.quiet_ns(flow) or flow.last_ns > now
            self.end(flow, EndReason.IDLE if idle else EndReason.ACTIVE)
            flow = None
        if flow is None:
            if len(self.open) + len(self.lingering) == self.settings.max_flows:
                self.end((self.lingering or self.open)[0], EndReason.EVICTED)
            flow = ReferenceFlow(
                number=self.opened,
                ends=(source, target),
                protocol=packet["protocol"],
                version=packet["version"],
                macs=(packet["src_mac"], packet["dst_mac"]),
                first_ns=now,
                last_ns=now,
            )
            self.opened += 1
        way = 0 if flow.ends == (source, target) else 1
        if len(flow.first) < self.settings.kept_packets:
            gap = max(now - flow.last_ns, 0)
            flow.first.append((data, packet, 1 - 2 * way, gap))
        flow.last_ns = max(flow.last_ns, now)
        flow.packets[way] += 1
        flow.bytes[way] += int(packet["ip_length"])
        if packet["protocol"] == TCP and flow.reason == EndReason.OPEN:
            if packet["tcp_flags"] & FIN:
                flow.fins.add(way)
            if packet["tcp_flags"] & RST:
                flow.reason = EndReason.RST
            elif flow.fins == {0, 1}:
                flow.reason = EndReason.FIN
        self.drop(flow)
        (self.open if flow.reason == EndReason.OPEN else self.lingering).append(flow)

    def find(self, ends: tuple[End, End], protocol: int) -> ReferenceFlow | None:
        """The live flow with this key, either way round."""
        for flow in self.open + self.lingering:
            if flow.protocol == protocol and flow.ends in (ends, ends[::-1]):
                return flow
        return None

    def must_split(self, flow: ReferenceFlow, packet: np.void, now: int) -> bool:
        """Whether the packet opens another flow with the same key."""
        reopened = flow.reason != EndReason.OPEN and packet["tcp_flags"] & (SYN | ACK) == SYN
        return bool(
            now - flow.last_ns > self.quiet_ns(flow)
            or flow.last_ns - now > self.settings.idle_s * SECOND_NS
            or now - flow.first_ns > self.settings.active_s * SECOND_NS
            or reopened
        )

    def quiet_ns(self, flow: ReferenceFlow) -> int:
        """How long this flow may be silent."""
        lingers = flow.reason != EndReason.OPEN
        return round((self.settings.linger_s if lingers else self.settings.idle_s) * SECOND_NS)

    def expire(self, now: int) -> None:
        """End what was quiet too long, as long as the least recently used was."""
        for flows in (self.open, self.lingering):
            while flows and now - flows[0].last_ns > self.quiet_ns(flows[0]):
                self.end(flows[0], EndReason.IDLE)

    def finish(self) -> None:
        """End everything."""
        for flow in self.open + self.lingering:
            self.end(flow, EndReason.CAPTURE_END)

    def end(self, flow: ReferenceFlow, reason: EndReason) -> None:
        """A flow that lingers keeps the reason why it does."""
        if flow.reason == EndReason.OPEN:
            flow.reason = reason
        self.drop(flow)
        self.ended.append(flow)

    def drop(self, flow: ReferenceFlow) -> None:
        """Take a flow out of the lists."""
        for flows in (self.open, self.lingering):
            if flow in flows:
                flows.remove(flow)

    def columns(self) -> FlowBatch:
        """The ended flows as a `FlowBatch`."""
        batch = FlowBatch.empty(self.settings.kept_packets)
        columns = [np.zeros((len(self.ended), *c.shape[1:]), c.dtype) for c in batch.columns()]
        batch = FlowBatch(*columns)
        for row, flow in enumerate(self.ended):
            self.write(flow, batch[row : row + 1])
        return batch

    def write(self, flow: ReferenceFlow, row: FlowBatch) -> None:
        """Fill a batch of one flow, which is a view of all."""
        (source, target), out = flow.ends, row.flow[0]
        out["src_hi"], out["src_lo"], out["src_port"] = source
        out["dst_hi"], out["dst_lo"], out["dst_port"] = target
        for name in ("number", "protocol", "version", "first_ns", "last_ns", "packets", "bytes"):
            out[name] = getattr(flow, name)
        out["src_mac"], out["dst_mac"] = flow.macs
        out["end_reason"] = flow.reason
        out["fins"] = sum(1 << way for way in flow.fins)
        out["kept"] = len(flow.first)
        for place, (data, packet, direction, gap_ns) in enumerate(flow.first):
            row.size[0, place] = packet["ip_length"]
            row.direction[0, place] = direction
            row.gap_ns[0, place] = gap_ns
            row.fields[0, place] = list(read_fields_reference(data, packet).values())
            if place < RAW_PACKETS:
                network, payload = int(packet["network_offset"]), int(packet["payload_offset"])
                data = data[: network + packet["ip_length"]]
                headers = data[network:payload][:HEADER_BYTES]
                rest = data[payload:][:PAYLOAD_BYTES]
                row.raw[0, place, : len(headers)] = list(headers)
                row.raw[0, place, HEADER_BYTES : HEADER_BYTES + len(rest)] = list(rest)
                ip_bytes = min(int(packet["transport_offset"]) - network, len(headers))
                row.header_length[0, place] = ip_bytes, len(headers)
