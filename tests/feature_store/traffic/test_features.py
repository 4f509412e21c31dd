import struct
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.traffic.features import (
    PROTECTED,
    Header,
    ProtectedField,
    Tier,
    feature_table,
    flow_features,
)
from feature_store.traffic.features.protected import KEPT_OPTIONS
from feature_store.traffic.flows import HEADER_FIELDS, FlowBatch
from feature_store.traffic.flows.messages import MESSAGE_FIELDS
from feature_store.traffic.meter import FlowMeter

from .conftest import ACK, PSH, SYN, batch_of, ipv4, ipv6, tcp, udp

TIMESTAMPS = b"\x01\x01\x08\x0a" + struct.pack(">II", 77, 88)
OPTIONS = b"\x02\x04\x05\xb4\x01\x03\x03\x07\x04\x02" + b"\x05\x0a" + bytes(range(8)) + TIMESTAMPS
HOP_BY_HOP = bytes([0]) + bytes(7)
KINDS = {
    6: lambda n: tcp(
        b"GET /" * n, flags=SYN if n == 0 else ACK | PSH, options=OPTIONS if n % 2 == 0 else b""
    ),
    17: lambda n: udp(bytes(10 * n), sport=4000, dport=443),
    1: lambda n: struct.pack(">BBHHH", 8, 0, 0, 7, n) + bytes(20),
    132: lambda n: struct.pack(">HHII", 5000, 6000, 7, 0) + bytes(9 * n),
}


def conversation(version: int) -> list[bytes]:
    """Seven packets of each kind, some with IP options or extension headers."""
    packets = []
    for protocol, build in KINDS.items():
        for n in range(7):
            content = build(n)
            if version == 4:
                options = b"\x44\x08\x05\0\0\0\0\x01" if n == 3 else b""
                packets.append(ipv4(content, protocol, options=options, identification=n))
            elif n == 3:
                packets.append(ipv6(bytes([protocol]) + HOP_BY_HOP[1:] + content, 0))
            else:
                packets.append(ipv6(content, protocol))
    return packets


def flows_of(packets: list[bytes]) -> FlowBatch:
    meter = FlowMeter()
    times = [n * 0.25 for n in range(len(packets))]
    batches = [*meter.add(batch_of(packets, times_s=times, link_type=101)), *meter.finish()]
    return FlowBatch.concatenate(batches)


def scramble(packet: bytes, field: ProtectedField, noise: Callable[[int], bytes]) -> bytes:
    """Put other bytes where the field is, if the packet has that header."""
    version = packet[0] >> 4
    ip_bytes = (packet[0] & 15) * 4 if version == 4 else 48 if packet[6] == 0 else 40
    protocol = packet[9] if version == 4 else packet[40] if packet[6] == 0 else packet[6]
    transport = {6: Header.TCP, 17: Header.UDP, 1: Header.ICMP, 132: Header.SCTP}[protocol]
    network = Header.IPV4 if version == 4 else Header.IPV6
    if field.header not in (network, transport):
        return packet
    start = (0 if field.header is network else ip_bytes) + field.offset
    out = bytearray(packet)
    if field.rounded:
        out[start] = 33 + noise(1)[0] % 32  # the class of 64
    elif field.offset == 20 and field.header is Header.TCP:
        scramble_options(out, start, ip_bytes + (out[ip_bytes + 12] >> 4) * 4, noise)
    elif (field.header, field.offset) in ((Header.IPV4, 20), (Header.IPV6, 40)):
        content = start + 2 if version == 6 else start
        out[content:ip_bytes] = noise(max(ip_bytes - content, 0))
    else:
        # The same change for equal bytes, so that flows stay together.
        change = bytearray(noise(field.length))
        change[0] &= field.first_mask
        for n in range(field.length):
            out[start + n] ^= change[n]
    return bytes(out)


def scramble_options(out: bytearray, at: int, end: int, noise: Callable[[int], bytes]) -> None:
    while at < end:
        size = 1 if out[at] == 1 else out[at + 1]
        if out[at] not in KEPT_OPTIONS and size > 2:
            out[at + 2 : at + size] = noise(size - 2)
        at += size


def assert_same(a: FlowBatch, b: FlowBatch, tier: Tier) -> None:
    left, right = flow_features(a, tier), flow_features(b, tier)
    for name in left.__slots__:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), err_msg=name)
    np.testing.assert_array_equal(feature_table(a, tier)[0], feature_table(b, tier)[0])


# Constant within an example, so that both directions of a flow change alike; no noise of 16 bits
# turns the conversation's ports into those of a tunnel.
noises = st.binary(min_size=40, max_size=40).filter(
    lambda noise: (
        not {n ^ int.from_bytes(noise[:2], "big") for n in (80, 443, 1000, 4000, 5000, 6000)}
        & {4789, 6081, 2152}
    )
)


@pytest.mark.parametrize("field", PROTECTED, ids=lambda f: f"{f.header.name} {f.name}")
@settings(max_examples=8, deadline=None)
@given(noise=noises)
def test_no_protected_field_changes_t0_or_t1(field: ProtectedField, noise: bytes) -> None:
    version = 6 if field.header is Header.IPV6 else 4
    packets = conversation(version)
    changed = [scramble(packet, field, lambda size: noise[:size]) for packet in packets]
    before, after = flows_of(packets), flows_of(changed)
    assert_same(before, after, Tier.T0)
    assert_same(before, after, Tier.T1)


@pytest.mark.parametrize("version", [4, 6])
@settings(max_examples=15, deadline=None)
@given(noise=noises)
def test_nor_do_all_of_them_together(version: int, noise: bytes) -> None:
    packets = changed = conversation(version)
    for field in PROTECTED:
        changed = [scramble(packet, field, lambda size: noise[:size]) for packet in changed]
    assert_same(flows_of(packets), flows_of(changed), Tier.T1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_fields_that_differ_from_packet_to_packet_do_not_matter_either(seed: int) -> None:
    generator = np.random.default_rng(seed)
    free = [f for f in PROTECTED if "port" not in f.name and "address" not in f.name]
    packets = conversation(4)
    changed = packets
    for field in free:
        changed = [scramble(packet, field, generator.bytes) for packet in changed]
    assert_same(flows_of(packets), flows_of(changed), Tier.T1)


def test_every_protected_field_is_seen_by_t2() -> None:
    packets = [*conversation(4), *conversation(6)]
    before = flow_features(flows_of(packets), Tier.T2).raw
    for field in PROTECTED:
        changed = [scramble(p, field, lambda size: b"\x55" * size) for p in packets]
        after = flow_features(flows_of(changed), Tier.T2).raw
        assert not np.array_equal(before, after), field


def test_what_is_kept_changes_t1_and_not_t0() -> None:
    packets = conversation(4)
    wider = [p[:34] + b"\x77\x77" + p[36:] if p[9] == 6 and p[0] == 0x45 else p for p in packets]
    before, after = flows_of(packets), flows_of(wider)
    assert_same(before, after, Tier.T0)
    assert not np.array_equal(before.fields, after.fields)
    headers = [flow_features(flows, Tier.T1).headers for flows in (before, after)]
    assert not np.array_equal(*headers)


def test_header_fields_of_a_syn() -> None:
    flows = flows_of([ipv4(tcp(flags=SYN, options=OPTIONS[:10] + b"\0\0"), 6, ttl=61)])
    fields = dict(zip(HEADER_FIELDS, flows.fields[0, 0].tolist(), strict=True))
    assert fields == {
        "ip_header_bytes": 20,
        "traffic_class": 0,
        "fragment_bits": 0,
        "hop_limit_class": 64,
        "transport_header_bytes": 32,
        "payload_bytes": 0,
        "tcp_flags": SYN,
        "tcp_window": 512,
        "tcp_mss": 1460,
        "tcp_window_scale": 8,
        "tcp_options": 0b11110,
        "icmp_type_code": 0,
        **dict.fromkeys(MESSAGE_FIELDS, 0),
    }


def test_a_tier_shows_nothing_of_the_tiers_above_it() -> None:
    flows = flows_of(conversation(4))
    t0, t1, t2 = (flow_features(flows, tier) for tier in Tier)
    assert (t0.fields.size, t0.headers.size, t0.raw.size, t1.raw.size) == (0, 0, 0, 0)
    assert t1.headers.shape == (4, 5, 80)
    assert t2.raw.shape == (4, 5, 320)
    widths = []
    for tier in Tier:
        table, names = feature_table(flows, tier)
        assert table.shape == (4, len(names))
        assert len(set(names)) == len(names)
        assert np.isfinite(table).all()
        widths.append(len(names))
    assert widths[0] < widths[1] < widths[2]


def test_statistics_of_no_flows_and_of_one_direction() -> None:
    table, names = feature_table(FlowBatch.empty(20), Tier.T1)
    assert table.shape == (0, len(names))
    table, names = feature_table(flows_of([ipv4(udp(bytes(12)), 17)] * 2), Tier.T0)
    row = dict(zip(names, table[0].tolist(), strict=True))
    assert (row["size_count_out"], row["size_mean_out"], row["size_std_out"]) == (2, 40, 0)
    assert (row["size_count_in"], row["size_max_in"], row["duration"]) == (0, 0, 0.25)
