"""The decoder again, slow and obvious: what tests compare the compiled one with.

Headers are taken off the front of a `Layer`; what goes wrong is raised as `Stop`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.packets.outcome import Outcome
from feature_store.traffic.packets.packet import PACKET
from feature_store.traffic.packets.reference_fragments import (
    LONGEST_HEADERS,
    FirstFragment,
    Flow,
    Held,
    Memory,
)
from feature_store.traffic.packets.reference_layer import Layer, Stop, number

MAX_DEPTH = 8


def decode_reference(batch: PacketBatch, *, fragments: int = 512) -> NDArray[np.void]:
    """(n,) `PACKET`, as `PacketDecoder(fragments=fragments).decode(batch)` gives it."""
    rows = np.zeros(len(batch), PACKET)
    for row, (packet, _) in zip(rows, _decoded(batch, Memory(fragments)), strict=True):
        packet.write(row)
    return rows


def decode_for_flows_reference(
    batch: PacketBatch, *, fragments: int = 512
) -> tuple[PacketBatch, NDArray[np.void], Counter[Outcome]]:
    """What `PacketDecoder(fragments=fragments).decode_for_flows(batch)` gives, but with all bytes
    of the fragments that waited, and its `outcomes` after `give_up()`."""
    memory = Memory(fragments)
    packets: list[Packet] = []
    joined: list[tuple[int, Packet]] = []  # of each row to be given: which packet, described how
    times: list[int] = []
    for i, (packet, released) in enumerate(_decoded(batch, memory)):
        packets.append(packet)
        joined.append((i, packet))
        joined += [(held.row, packets[held.row].joining(first.flow)) for held, first in released]
        times += [packet.timestamp_ns] * (1 + len(released))
    rows = np.zeros(len(joined), PACKET)
    for row, (_, packet) in zip(rows, joined, strict=True):
        packet.write(row)
    found = batch[np.array([i for i, _ in joined], np.int64)]
    found = replace(found, timestamp_ns=np.array(times, np.int64))
    outcomes = Counter(packet.outcome for _, packet in joined)
    del outcomes[Outcome.FRAGMENT_WAITS]
    outcomes += memory.given_up
    outcomes[Outcome.FRAGMENT_WITHOUT_FIRST] += sum(held.waits for held in memory.held)
    return found, rows, +outcomes


def _decoded(
    batch: PacketBatch, memory: Memory
) -> Iterator[tuple[Packet, list[tuple[Held, FirstFragment]]]]:
    """Each packet, and the fragments that had waited for it."""
    for i in range(len(batch)):
        wire_length = min(int(batch.length[i]), 2**31 - 1)
        packet = Packet(memory, i, int(batch.timestamp_ns[i]), wire_length)
        whole = Layer(batch.packet(i), 0, wire_length)
        try:
            packet.link(whole, int(batch.link_type[i]))
        except Stop as stop:
            not_ip = stop.outcome == Outcome.NOT_IP and packet.depth > 0
            packet.outcome = Outcome.FLOW if not_ip else stop.outcome
        released = []
        for first in packet.first_fragments:
            first.flow = packet.flow() if packet.outcome == Outcome.FLOW else None
            released += [(held, first) for held in memory.release(first)]
        yield packet, released


@dataclass
class Packet:
    """What is known of a packet so far; each method reads one kind of header and goes on."""

    memory: Memory
    row: int
    timestamp_ns: int
    wire_length: int
    outcome: Outcome = Outcome.FLOW
    first_fragments: list[FirstFragment] = field(default_factory=list)
    src: bytes = bytes(16)
    dst: bytes = bytes(16)
    src_mac: int = 0
    dst_mac: int = 0
    src_port: int = 0
    dst_port: int = 0
    protocol: int = 0
    version: int = 0
    tcp_flags: int = 0
    fragment: int = 0
    depth: int = 0
    network_offset: int = 0
    transport_offset: int = 0
    payload_offset: int = 0
    payload_length: int = 0
    ip_length: int = 0

    def flow(self) -> Flow:
        """What says which flow it belongs to."""
        return self.src, self.dst, self.src_port, self.dst_port, self.protocol, self.version

    def write(self, row: np.void) -> None:
        """Fill a `PACKET`."""
        for name in ("src", "dst"):
            address = getattr(self, name)
            row[f"{name}_hi"] = int.from_bytes(address[:8], "big")
            row[f"{name}_lo"] = int.from_bytes(address[8:], "big")
        for name in PACKET.names or ():
            if not name.endswith(("_hi", "_lo")):
                row[name] = getattr(self, name)

    # below IP

    def link(self, layer: Layer, link_type: int) -> None:
        """The outermost header."""
        if link_type == 1:
            if len(layer.data) >= 12:
                self.dst_mac, self.src_mac = number(layer.data[:6]), number(layer.data[6:12])
            self.ethernet(layer)
        elif link_type in (12, 14, 101, 228, 229):
            self.ip(layer)
        elif link_type == 113:
            self.ethertype(layer, number(layer.take_link(16)[14:16]))
        elif link_type == 276:
            self.ethertype(layer, number(layer.take_link(20)[:2]))
        elif link_type in (0, 108):
            self.loopback(layer)
        elif link_type in (9, 50):
            self.ppp(layer)
        elif link_type == 51:
            layer.at += 6
            self.ppp(layer)
        else:
            raise Stop(Outcome.LINK_UNSUPPORTED)

    def ethernet(self, layer: Layer) -> None:
        """IEEE 802.3."""
        self.ethertype(layer, number(layer.take_link(14)[12:]))

    def ethertype(self, layer: Layer, ethertype: int) -> None:
        """What an EtherType announces."""
        if ethertype == 0x0800:
            self.ipv4(layer)
        elif ethertype == 0x86DD:
            self.ipv6(layer)
        elif ethertype in (0x8100, 0x88A8, 0x9100, 0x9200):
            self.ethertype(layer, number(layer.take_link(4)[2:]))
        elif ethertype in (0x8847, 0x8848):
            self.mpls(layer)
        elif ethertype == 0x8864:
            layer.at += 6
            self.ppp(layer)
        elif ethertype == 0x6558:
            self.ethernet(layer)
        elif ethertype == 0x880B:
            self.ppp(layer)
        elif ethertype < 0x600:
            self.llc(layer)
        else:
            raise Stop(Outcome.NOT_IP)

    def llc(self, layer: Layer) -> None:
        """IEEE 802.2 with SNAP."""
        if layer.at + 8 > layer.end and layer.at + 8 > len(layer.data):
            raise Stop(Outcome.NOT_IP)
        header = layer.take_link(8)
        if header[:6] != b"\xaa\xaa\x03\0\0\0" or number(header[6:]) < 0x600:
            raise Stop(Outcome.NOT_IP)
        self.ethertype(layer, number(header[6:]))

    def mpls(self, layer: Layer) -> None:
        """Labels to the bottom of the stack."""
        bottom = False
        while not bottom:
            label = layer.take_link(5)
            layer.at -= 1
            bottom = bool(label[2] & 1)
        nibble = label[4] >> 4
        if nibble == 4:
            self.ipv4(layer)
        elif nibble == 6:
            self.ipv6(layer)
        elif nibble == 0:
            layer.at += 4
            self.ethernet(layer)
        else:
            raise Stop(Outcome.NOT_IP)

    def ppp(self, layer: Layer) -> None:
        """A PPP frame."""
        if layer.peek(2) == b"\xff\x03":
            layer.at += 2
        protocol = layer.take_link(1)
        if not protocol[0] & 1:
            protocol += layer.take_link(1)
        if number(protocol) == 0x21:
            self.ipv4(layer)
        elif number(protocol) == 0x57:
            self.ipv6(layer)
        elif number(protocol) in (0x281, 0x283):
            self.mpls(layer)
        else:
            raise Stop(Outcome.NOT_IP)

    def loopback(self, layer: Layer) -> None:
        """An address family in either byte order."""
        head = layer.take_link(4)
        family = number(head) if number(head) <= 0xFFFF else int.from_bytes(head, "little") & 0xFFFF
        if family == 2:
            self.ipv4(layer)
        elif family in (10, 24, 28, 30):
            self.ipv6(layer)
        else:
            raise Stop(Outcome.NOT_IP)

    # IP

    def ip(self, layer: Layer) -> None:
        """Either version."""
        version = layer.take_network(1)[0] >> 4
        layer.at -= 1
        if version == 4:
            self.ipv4(layer)
        elif version == 6:
            self.ipv6(layer)
        else:
            raise Stop(Outcome.NETWORK_MALFORMED)

    def begin_ip(self, layer: Layer) -> None:
        """One IP header deeper."""
        if self.depth == MAX_DEPTH:
            raise Stop(Outcome.TOO_DEEP)
        self.depth += 1
        self.network_offset, self.ip_length = layer.at, max(layer.end - layer.at, 0)

    def ipv4(self, layer: Layer) -> None:
        """RFC 791."""
        self.begin_ip(layer)
        header = layer.take_network(20)
        header_bytes, total = (header[0] & 15) * 4, number(header[2:4])
        total = total or layer.end - self.network_offset
        if header[0] >> 4 != 4 or header_bytes < 20 or total < header_bytes:
            raise Stop(Outcome.NETWORK_MALFORMED)
        self.version, self.ip_length = 4, total
        self.src = bytes(10) + b"\xff\xff" + header[12:16]
        self.dst = bytes(10) + b"\xff\xff" + header[16:20]
        end = self.network_offset + total
        inner = Layer(layer.data[:end], self.network_offset + header_bytes, end)
        more, position = header[6] & 0x20, number(header[6:8]) & 0x1FFF
        if more or position:
            self.fragment_of(inner, header[9], number(header[4:6]), position)
        elif header[9] == 51:
            authentication = inner.take_network(8)
            inner.at += (authentication[1] + 2) * 4 - 8
            if inner.at > inner.end:
                raise Stop(Outcome.NETWORK_MALFORMED)
            self.carried(inner, authentication[0])
        self.carried(inner, header[9])

    def ipv6(self, layer: Layer) -> None:
        """RFC 8200."""
        self.begin_ip(layer)
        header = layer.take_network(40)
        if header[0] >> 4 != 6:
            raise Stop(Outcome.NETWORK_MALFORMED)
        if number(header[4:6]):
            self.ip_length = 40 + number(header[4:6])
        self.version, self.src, self.dst = 6, header[8:24], header[24:40]
        end = self.network_offset + self.ip_length
        inner = Layer(layer.data[:end], layer.at, end)
        protocol = header[6]
        for _ in range(16):
            if protocol not in (0, 43, 44, 51, 60, 135, 139, 140):
                self.carried(inner, protocol)
            extension = inner.take_network(8)
            if protocol == 44:
                position, more = number(extension[2:4]) >> 3, extension[3] & 1
                if more or position:
                    identification = number(extension[4:8])
                    self.fragment_of(inner, extension[0], identification, position)
                    self.carried(inner, extension[0])
            elif protocol == 51:
                inner.at += (extension[1] + 2) * 4 - 8
            else:
                inner.at += (extension[1] + 1) * 8 - 8
            if inner.at > inner.end:
                raise Stop(Outcome.NETWORK_MALFORMED)
            protocol = extension[0]
        raise Stop(Outcome.NETWORK_MALFORMED)

    def fragment_of(self, layer: Layer, protocol: int, identification: int, position: int) -> None:
        """Remember a first fragment, or Stop at a later one."""
        key = (self.src, self.dst, protocol, identification)
        self.fragment = 2 if position else 1
        if not position:
            self.first_fragments.append(FirstFragment(key, self.timestamp_ns))
            self.memory.firsts.append(self.first_fragments[-1])
            return
        self.describe(layer, protocol)
        found = self.memory.flow_of(key, self.timestamp_ns)
        if found is Outcome.FRAGMENT_WAITS and self.payload_offset > LONGEST_HEADERS:
            found = Outcome.FRAGMENT_WITHOUT_FIRST
        if found is Outcome.FRAGMENT_WAITS:
            self.memory.hold(Held(key, self.timestamp_ns, self.row))
        if isinstance(found, Outcome):
            raise Stop(found)
        self.join(found)
        raise Stop(Outcome.FLOW)

    def join(self, flow: Flow) -> None:
        """Belong to a flow."""
        self.src, self.dst, self.src_port, self.dst_port, self.protocol, self.version = flow

    def joining(self, flow: Flow | None) -> Packet:
        """The same packet as it joins its flow late."""
        late = replace(self, outcome=Outcome.FLOW)
        if flow is not None:
            late.join(flow)
        return late

    def describe(self, layer: Layer, protocol: int) -> None:
        """What the IP header alone says."""
        self.protocol, self.src_port, self.dst_port = protocol, 0, 0
        self.transport_offset = self.payload_offset = layer.at
        self.payload_length = layer.end - layer.at

    def carried(self, layer: Layer, protocol: int) -> None:
        """What is inside IP. Never returns."""
        self.describe(layer, protocol)
        if protocol == 4:
            self.ipv4(layer)
        elif protocol == 41:
            self.ipv6(layer)
        elif protocol == 47:
            self.gre(layer)
        elif protocol == 6:
            self.tcp(layer)
        elif protocol == 17:
            self.udp(layer)
        elif protocol in (1, 58):
            layer.take_transport(8)
            self.payload(layer)
        elif protocol == 132:
            self.ports(layer.take_transport(12))
            self.payload(layer)
        raise Stop(Outcome.FLOW)

    # above IP

    def ports(self, header: bytes) -> None:
        """The first four bytes of most transport headers."""
        self.src_port, self.dst_port = number(header[:2]), number(header[2:4])

    def payload(self, layer: Layer) -> None:
        """The headers are over."""
        self.payload_offset, self.payload_length = layer.at, layer.end - layer.at

    def tcp(self, layer: Layer) -> None:
        """RFC 9293."""
        start = layer.at
        header = layer.take_transport(20)
        header_bytes = (header[12] >> 4) * 4
        if header_bytes < 20 or start + header_bytes > layer.end:
            raise Stop(Outcome.TRANSPORT_MALFORMED)
        self.ports(header)
        self.tcp_flags = header[13]
        layer.at = start + header_bytes
        self.payload(layer)

    def udp(self, layer: Layer) -> None:
        """RFC 768, and the tunnels over it."""
        header = layer.take_transport(8)
        self.ports(header)
        self.payload(layer)
        if 0 < number(header[4:6]) < 8:
            raise Stop(Outcome.TRANSPORT_MALFORMED)
        tunnel = layer.peek(8)
        if len(tunnel) < 8:
            return
        if self.dst_port == 4789 and tunnel[0] & 8 and tunnel[7] == 0:
            layer.at += 8
            self.ethernet(layer)
        elif self.dst_port == 6081 and tunnel[0] >> 6 == 0:
            if number(tunnel[2:4]) in (0x6558, 0x0800, 0x86DD):
                layer.at += 8 + (tunnel[0] & 63) * 4
                self.ethertype(layer, number(tunnel[2:4]))
        elif self.dst_port == 2152 and tunnel[0] >> 4 == 3 and tunnel[1] == 255:
            layer.at += 8
            self.gtp(layer, tunnel[0] & 7)

    def gtp(self, layer: Layer, flags: int) -> None:
        """3GPP TS 29.281, behind the mandatory header."""
        if flags:
            optional = layer.peek(4)
            layer.at += 4
            following = optional[3] if len(optional) == 4 and flags & 4 else 0
            while following:
                size = layer.peek(1)
                if size in (b"", b"\0"):
                    return
                layer.at += size[0] * 4
                following = layer.data[layer.at - 1] if layer.at <= len(layer.data) else 0
        if layer.peek(1) and layer.peek(1)[0] >> 4 in (4, 6):
            self.ip(layer)

    def gre(self, layer: Layer) -> None:
        """RFC 2784, RFC 2890, RFC 2637."""
        header = layer.take_transport(4)
        flags, protocol = number(header[:2]), number(header[2:])
        if flags & 0x4000:
            raise Stop(Outcome.NOT_IP)
        layer.at += 4 * (flags & 0x8000 > 0) + 4 * (flags & 0x2000 > 0) + 4 * (flags & 0x1000 > 0)
        layer.at += 4 * (flags & 0x87 == 0x81)
        if protocol == 0x88BE:
            layer.at += 8 * (flags & 0x1000 > 0)
            self.ethernet(layer)
        elif protocol == 0x22EB:
            erspan = layer.take_link(12)
            layer.at += 8 * (erspan[11] & 1)
            self.ethernet(layer)
        elif protocol < 0x600:
            raise Stop(Outcome.NOT_IP)
        self.ethertype(layer, protocol)
