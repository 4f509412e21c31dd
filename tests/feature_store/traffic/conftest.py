"""Packets and capture files, byte by byte."""

import struct
from ipaddress import ip_address

import numpy as np
from hypothesis import strategies as st

from feature_store.traffic.capture import PacketBatch

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def ethernet(payload: bytes, ethertype: int = 0x0800) -> bytes:
    return bytes.fromhex("020000000001020000000002") + struct.pack(">H", ethertype) + payload


def vlan(payload: bytes, ethertype: int = 0x0800, tag: int = 7) -> bytes:
    """Behind an EtherType 0x8100 or 0x88A8."""
    return struct.pack(">HH", tag, ethertype) + payload


def mpls(payload: bytes, labels: int = 1) -> bytes:
    stack = b"".join(
        struct.pack(">I", (16 + n) << 12 | (n == labels - 1) << 8 | 64) for n in range(labels)
    )
    return stack + payload


def pppoe(payload: bytes, protocol: int = 0x21) -> bytes:
    return struct.pack(">BBHHH", 0x11, 0, 5, len(payload) + 2, protocol) + payload


def ipv4(
    payload: bytes,
    protocol: int,
    *,
    src: str = "192.0.2.1",
    dst: str = "192.0.2.2",
    options: bytes = b"",
    identification: int = 0,
    fragment: int = 0,
    ttl: int = 64,
) -> bytes:
    """`fragment` is the whole 16-bit field: flags and offset."""
    header = 20 + len(options)
    return (
        struct.pack(
            ">BBHHHBBH4s4s",
            0x40 | header // 4,
            0,
            header + len(payload),
            identification,
            fragment,
            ttl,
            protocol,
            0,
            ip_address(src).packed,
            ip_address(dst).packed,
        )
        + options
        + payload
    )


def ipv6(
    payload: bytes, protocol: int, *, src: str = "2001:db8::1", dst: str = "2001:db8::2"
) -> bytes:
    head = struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64)
    return head + ip_address(src).packed + ip_address(dst).packed + payload


def tcp(
    payload: bytes = b"",
    *,
    sport: int = 1000,
    dport: int = 80,
    flags: int = ACK,
    options: bytes = b"",
) -> bytes:
    words = 5 + len(options) // 4
    head = struct.pack(">HHIIBBHHH", sport, dport, 1, 2, words << 4, flags, 512, 0, 0)
    return head + options + payload


def udp(payload: bytes = b"", *, sport: int = 1000, dport: int = 53) -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(payload), 0) + payload


def gre(payload: bytes, protocol: int = 0x0800, *, flags: int = 0, extra: bytes = b"") -> bytes:
    return struct.pack(">HH", flags, protocol) + extra + payload


def vxlan(frame: bytes) -> bytes:
    return udp(struct.pack(">II", 8 << 24, 5 << 8) + frame, dport=4789)


def geneve(content: bytes, protocol: int = 0x6558, options: bytes = b"") -> bytes:
    head = struct.pack(">BBHI", len(options) // 4, 0, protocol, 5 << 8)
    return udp(head + options + content, dport=6081)


def gtp_u(packet: bytes, *, extensions: bytes = b"") -> bytes:
    """`extensions` is all behind the eighth byte: sequence number, N-PDU, chain."""
    flags = 0x34 if extensions else 0x30
    head = struct.pack(">BBHI", flags, 255, len(packet) + len(extensions), 9)
    return udp(head + extensions + packet, dport=2152)


def pcap(
    packets: list[bytes],
    *,
    order: str = "<",
    nanoseconds: bool = False,
    link_type: int = 1,
    times: list[tuple[int, int]] | None = None,
) -> bytes:
    """`times` are seconds and the fraction as the file counts it."""
    magic = 0xA1B23C4D if nanoseconds else 0xA1B2C3D4
    file = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 65535, link_type)
    for i, packet in enumerate(packets):
        seconds, fraction = times[i] if times else (i, 0)
        file += struct.pack(order + "IIII", seconds, fraction, len(packet), len(packet)) + packet
    return file


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", 12 + len(body))
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str = "<") -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link_type: int = 1, order: str = "<", snap: int = 0, options: bytes = b"") -> bytes:
    return block(1, struct.pack(order + "HHI", link_type, 0, snap) + options, order)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def enhanced(packet: bytes, ticks: int = 0, interface_id: int = 0, order: str = "<") -> bytes:
    head = struct.pack(
        order + "IIIII", interface_id, ticks >> 32, ticks & 0xFFFFFFFF, len(packet), len(packet)
    )
    return block(6, head + packet, order)


def batch_of(
    packets: list[bytes], *, times_s: list[float] | None = None, link_type: int = 1
) -> PacketBatch:
    times = [round(t * 1e9) for t in times_s] if times_s else range(len(packets))
    return PacketBatch.from_packets(packets, timestamp_ns=times, link_type=link_type)


def batches_equal(a: PacketBatch, b: PacketBatch) -> bool:
    return [a.packet(i) for i in range(len(a))] == [b.packet(i) for i in range(len(b))] and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("captured", "length", "timestamp_ns", "link_type")
    )


ports = st.sampled_from([80, 53, 1000, 4789, 6081, 2152])
few_hosts = st.sampled_from(["192.0.2.1", "192.0.2.2", "192.0.2.3"])
small = st.binary(max_size=40)


@st.composite
def transports(draw: st.DrawFn) -> tuple[bytes, int]:
    """A transport header with content, and its protocol."""
    protocol = draw(st.sampled_from([6, 6, 17, 17, 1, 132, 50]))
    if protocol == 6:
        flags = draw(st.sampled_from([SYN, SYN | ACK, ACK, ACK, ACK | PSH, FIN | ACK, RST]))
        options = draw(st.sampled_from([b"", b"\x02\x04\x05\xb4", b"\x01\x01\x08\x0a" + bytes(8)]))
        content = tcp(
            draw(small), sport=draw(ports), dport=draw(ports), flags=flags, options=options
        )
    elif protocol == 17:
        content = udp(draw(small), sport=draw(ports), dport=draw(ports))
    else:
        content = draw(st.binary(min_size=8, max_size=30))
    return content, protocol


@st.composite
def ip_packets(draw: st.DrawFn, depth: int = 3) -> bytes:
    """IPv4 or IPv6, perhaps a fragment, perhaps a tunnel."""
    content, protocol = draw(transports())
    if depth and draw(st.booleans()):
        inner = draw(ip_packets(depth=depth - 1))
        kind = 0x0800 if inner[0] >> 4 == 4 else 0x86DD
        content, protocol = draw(
            st.sampled_from(
                [
                    (inner, 4 if kind == 0x0800 else 41),
                    (gre(inner, kind), 47),
                    (gre(inner, kind, flags=0xB000, extra=bytes(12)), 47),
                    (vxlan(ethernet(inner, kind)), 17),
                    (geneve(inner, kind, options=bytes(8)), 17),
                    (gtp_u(inner), 17),
                    (gtp_u(inner, extensions=b"\0\0\0\x85\x01\0\0\0"), 17),
                ]
            )
        )
    src, dst = draw(few_hosts), draw(few_hosts)
    if draw(st.booleans()):
        fragment = draw(st.sampled_from([0, 0, 0, 0x4000, 0x2000, 0x2003, 0x0003]))
        identification = draw(st.integers(0, 2))
        return ipv4(
            content, protocol, src=src, dst=dst, identification=identification, fragment=fragment
        )
    if draw(st.booleans()):
        content, protocol = (
            bytes([protocol, 0]) + bytes(6) + content,
            draw(st.sampled_from([0, 43, 60, 44])),
        )
    return ipv6(content, protocol, src=f"::{src}", dst=f"::{dst}")


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """An Ethernet frame that is mostly well formed."""
    packet = draw(ip_packets())
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    return draw(
        st.sampled_from(
            [
                ethernet(packet, kind),
                ethernet(vlan(packet, kind), 0x8100),
                ethernet(vlan(vlan(packet, kind), 0x8100), 0x88A8),
                ethernet(mpls(packet, 2), 0x8847),
                ethernet(pppoe(packet, 0x21 if kind == 0x0800 else 0x57), 0x8864),
            ]
        )
    )


@st.composite
def mutated_frames(draw: st.DrawFn) -> bytes:
    """A frame in which some bytes were overwritten or the end is missing."""
    frame = bytearray(draw(frames()))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(frame) - 1))
        frame[at] = draw(st.sampled_from([0, 1, 4, 6, 0x45, 0x60, 0x2F, 0xFF]))
    return bytes(frame[: draw(st.integers(0, len(frame)))]) if draw(st.booleans()) else bytes(frame)
