import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.traffic.packets import PACKET, Outcome, PacketDecoder, address_text
from feature_store.traffic.packets.reference import decode_reference

from .conftest import (
    SYN,
    batch_of,
    ethernet,
    frames,
    geneve,
    gre,
    gtp_u,
    ipv4,
    ipv6,
    mpls,
    mutated_frames,
    pppoe,
    tcp,
    udp,
    vlan,
    vxlan,
)

INNER = ipv4(tcp(b"hello", sport=1234, dport=443), 6, src="10.0.0.1", dst="10.0.0.2")
INNER_6 = ipv6(tcp(b"hello", sport=1234, dport=443), 6, src="fd00::1", dst="fd00::2")
LLC_SNAP = b"\xaa\xaa\x03\0\0\0\x08\0"


def decode(*packets: bytes, link_type: int = 1, lengths: list[int] | None = None) -> np.ndarray:
    batch = batch_of(list(packets), link_type=link_type)
    if lengths:
        batch.length[:] = lengths
    return PacketDecoder().decode(batch)


def describe(packet: np.void) -> tuple[str, int, str, int, int]:
    return (
        address_text(packet["src_hi"], packet["src_lo"]),
        int(packet["src_port"]),
        address_text(packet["dst_hi"], packet["dst_lo"]),
        int(packet["dst_port"]),
        int(packet["protocol"]),
    )


ROADS = {
    "ethernet": (1, ethernet(INNER)),
    "padding": (1, ethernet(INNER) + bytes(20)),
    "vlan": (1, ethernet(vlan(INNER), 0x8100)),
    "qinq": (1, ethernet(vlan(vlan(INNER), 0x8100), 0x88A8)),
    "mpls": (1, ethernet(mpls(INNER, 3), 0x8847)),
    "mpls pseudowire": (1, ethernet(mpls(bytes(4) + ethernet(INNER)), 0x8847)),
    "pppoe": (1, ethernet(pppoe(INNER), 0x8864)),
    "snap": (1, ethernet(LLC_SNAP + INNER, len(INNER) + 8)),
    "null": (0, struct.pack("<I", 2) + INNER),
    "null, other order": (0, struct.pack(">I", 2) + INNER),
    "loop": (108, struct.pack(">I", 2) + INNER),
    "raw 12": (12, INNER),
    "raw 14": (14, INNER),
    "raw 101": (101, INNER),
    "raw 228": (228, INNER),
    "cooked": (113, struct.pack(">HHH8sH", 0, 1, 6, bytes(8), 0x0800) + INNER),
    "cooked 2": (276, struct.pack(">HHIHBB8s", 0x0800, 0, 1, 1, 0, 6, bytes(8)) + INNER),
    "ppp": (9, b"\xff\x03\x00\x21" + INNER),
    "ppp, compressed": (9, b"\x21" + INNER),
    "ip options": (101, ipv4(INNER[20:], 6, src="10.0.0.1", dst="10.0.0.2", options=b"\x94\4\0\0")),
    "authentication": (
        101,
        ipv4(bytes([6, 4]) + bytes(22) + INNER[20:], 51, src="10.0.0.1", dst="10.0.0.2"),
    ),
    "4in4": (101, ipv4(INNER, 4)),
    "4in6": (101, ipv6(INNER, 4)),
    "gre": (101, ipv4(gre(INNER), 47)),
    "gre key, checksum, sequence": (101, ipv4(gre(INNER, flags=0xB000, extra=bytes(12)), 47)),
    "gre ppp": (101, ipv4(gre(b"\x21" + INNER, 0x880B, flags=0x3081, extra=bytes(12)), 47)),
    "gre ethernet": (101, ipv4(gre(ethernet(INNER), 0x6558), 47)),
    "erspan 1": (101, ipv4(gre(ethernet(INNER), 0x88BE), 47)),
    "erspan 2": (
        101,
        ipv4(gre(bytes(8) + ethernet(INNER), 0x88BE, flags=0x1000, extra=bytes(4)), 47),
    ),
    "erspan 3": (101, ipv4(gre(bytes(12) + ethernet(INNER), 0x22EB), 47)),
    "vxlan": (1, ethernet(ipv4(vxlan(ethernet(vlan(INNER), 0x8100)), 17))),
    "geneve": (1, ethernet(ipv4(geneve(ethernet(INNER)), 17))),
    "geneve, options, bare ip": (101, ipv4(geneve(INNER, 0x0800, bytes(12)), 17)),
    "gtp-u": (101, ipv4(gtp_u(INNER), 17)),
    "gtp-u, extensions": (101, ipv4(gtp_u(INNER, extensions=b"\0\0\0\x85\x01\0\0\0"), 17)),
    "gre in vxlan in gtp-u": (
        101,
        ipv6(gtp_u(ipv4(vxlan(ethernet(ipv4(gre(INNER), 47))), 17)), 17),
    ),
}


@pytest.mark.parametrize(("link_type", "packet"), ROADS.values(), ids=ROADS.keys())
def test_every_road_leads_to_the_inner_flow(link_type: int, packet: bytes) -> None:
    (row,) = decode(packet, link_type=link_type)
    assert Outcome(row["outcome"]) is Outcome.FLOW
    assert describe(row) == ("10.0.0.1", 1234, "10.0.0.2", 443, 6)
    payload = int(row["payload_offset"])
    assert packet[payload : payload + int(row["payload_length"])] == b"hello"
    assert row["wire_length"] == len(packet)
    network = int(row["network_offset"])
    assert packet[network] >> 4 == 4
    assert packet[network + 12 : network + 20] == INNER[12:20]


EXTENSIONS = {
    "plain": (101, INNER_6),
    "229": (229, INNER_6),
    "null": (0, struct.pack("<I", 30) + INNER_6),
    "hop by hop, destination": (
        101,
        ipv6(
            bytes([60, 0]) + bytes(6) + bytes([6, 1]) + bytes(14) + INNER_6[40:],
            0,
            src="fd00::1",
            dst="fd00::2",
        ),
    ),
    "authentication": (
        101,
        ipv6(bytes([6, 4]) + bytes(22) + INNER_6[40:], 51, src="fd00::1", dst="fd00::2"),
    ),
    "atomic fragment": (
        101,
        ipv6(bytes([6, 0]) + bytes(6) + INNER_6[40:], 44, src="fd00::1", dst="fd00::2"),
    ),
    "6in4": (101, ipv4(INNER_6, 41)),
    "6in6": (101, ipv6(INNER_6, 41)),
    "pppoe": (1, ethernet(pppoe(INNER_6, 0x57), 0x8864)),
    "mpls": (1, ethernet(mpls(INNER_6), 0x8847)),
}


@pytest.mark.parametrize(("link_type", "packet"), EXTENSIONS.values(), ids=EXTENSIONS.keys())
def test_ipv6_with_extension_headers_and_tunnels(link_type: int, packet: bytes) -> None:
    (row,) = decode(packet, link_type=link_type)
    assert Outcome(row["outcome"]) is Outcome.FLOW
    assert describe(row) == ("fd00::1", 1234, "fd00::2", 443, 6)
    payload = int(row["payload_offset"])
    assert packet[payload : payload + int(row["payload_length"])] == b"hello"


@pytest.mark.parametrize("words", [5, 250])
def test_an_authentication_header_beyond_its_packet_is_malformed(words: int) -> None:
    packet = ipv4(bytes([6, words]) + bytes(6) + b"hello", 51)
    (row,) = decode(packet, link_type=101)
    assert Outcome(row["outcome"]) is Outcome.NETWORK_MALFORMED
    assert_rows_equal(
        PacketDecoder().decode(batch_of([packet], link_type=101)),
        decode_reference(batch_of([packet], link_type=101)),
    )


def test_hardware_addresses_are_those_of_the_outermost_frame() -> None:
    (row,) = decode(ethernet(ipv4(vxlan(bytes(12) + ethernet(INNER)[12:]), 17)))
    assert (row["dst_mac"], row["src_mac"]) == (0x020000000001, 0x020000000002)
    assert not decode(INNER, link_type=101)["src_mac"].any()


def test_a_decoder_must_remember_something() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        PacketDecoder(fragments=0)


def test_transports() -> None:
    sctp = struct.pack(">HHII", 5000, 6000, 7, 0) + b"chunk"
    icmp = struct.pack(">BBHHH", 8, 0, 0, 1, 2) + b"ping"
    rows = decode(
        ipv4(udp(b"dns", sport=5353, dport=53), 17),
        ipv4(sctp, 132),
        ipv4(icmp, 1),
        ipv4(b"\0\0\0\1esp", 50),
        ipv4(tcp(flags=SYN), 6),
        link_type=101,
    )
    assert set(rows["outcome"]) == {Outcome.FLOW}
    assert rows["src_port"].tolist() == [5353, 5000, 0, 0, 1000]
    assert rows["payload_length"].tolist() == [3, 5, 4, 7, 0]
    assert rows["tcp_flags"].tolist() == [0, 0, 0, 0, SYN]


@pytest.mark.parametrize(
    ("packet", "wire", "outcome"),
    [
        (ethernet(b"\0\1\x08\0", 0x0806), 0, Outcome.NOT_IP),
        (ethernet(b"\x42\x42\x03" + bytes(40), 40), 0, Outcome.NOT_IP),
        (ethernet(INNER)[:13], 100, Outcome.LINK_TRUNCATED),
        (ethernet(INNER)[:13], 0, Outcome.LINK_MALFORMED),
        (b"", 0, Outcome.LINK_MALFORMED),
        (ethernet(vlan(b"")[:1], 0x8100), 0, Outcome.LINK_MALFORMED),
        (ethernet(INNER[:19]), 100, Outcome.NETWORK_TRUNCATED),
        (ethernet(INNER[:19]), 0, Outcome.NETWORK_MALFORMED),
        (ethernet(b"\x44" + INNER[1:]), 0, Outcome.NETWORK_MALFORMED),
        (ethernet(b"\x65" + INNER[1:]), 0, Outcome.NETWORK_MALFORMED),
        (ethernet(INNER[:2] + b"\0\x13" + INNER[4:]), 0, Outcome.NETWORK_MALFORMED),
        (ethernet(INNER_6[:39], 0x86DD), 100, Outcome.NETWORK_TRUNCATED),
        (ethernet(ipv6(bytes(8) * 20, 0), 0x86DD), 0, Outcome.NETWORK_MALFORMED),
        (ethernet(INNER)[:50], 59, Outcome.TRANSPORT_TRUNCATED),
        (ethernet(ipv4(tcp()[:19], 6)), 0, Outcome.TRANSPORT_MALFORMED),
        (ethernet(ipv4(tcp()[:12] + b"\x40" + tcp()[13:], 6)), 0, Outcome.TRANSPORT_MALFORMED),
        (ethernet(ipv4(udp()[:4] + b"\0\7\0\0", 17)), 0, Outcome.TRANSPORT_MALFORMED),
        (ethernet(ipv4(INNER[:10], 4)), 0, Outcome.NETWORK_MALFORMED),
    ],
)
def test_truncated_and_malformed_packets_are_told_apart(
    packet: bytes, wire: int, outcome: Outcome
) -> None:
    (row,) = decode(packet, lengths=[max(wire, len(packet))])
    assert Outcome(row["outcome"]) is outcome


def test_a_length_beyond_all_bounds_is_cut() -> None:
    jumbo = ipv6(udp(bytes(10)), 17)
    batch = batch_of([jumbo[:4] + b"\0\0" + jumbo[6:]], link_type=101)
    batch.length[:] = 2**32 - 1
    (row,) = PacketDecoder().decode(batch)
    assert row["ip_length"] == row["wire_length"] == 2**31 - 1
    assert_rows_equal(PacketDecoder().decode(batch), decode_reference(batch))


def test_an_unknown_link_type_is_unsupported() -> None:
    assert decode(INNER, link_type=105)["outcome"][0] == Outcome.LINK_UNSUPPORTED


def test_nesting_is_bounded() -> None:
    packet = INNER
    for _ in range(7):
        packet = ipv4(packet, 4)
    deeper = ipv4(packet, 4)
    outcomes = decode(packet, deeper, link_type=101)["outcome"].tolist()
    assert outcomes == [Outcome.FLOW, Outcome.TOO_DEEP]


@pytest.mark.parametrize(
    "packet",
    [
        ipv4(gre(b"\x00\xfd" + bytes(20), 0x880B, flags=0x3001, extra=bytes(8)), 47),
        ipv4(vxlan(ethernet(bytes(28), 0x0806)), 17),
        ipv4(udp(bytes(20), dport=4789), 17),
        ipv4(udp(b"\x32\x01\0\4\0\0\0\0\0\1\0\0", dport=2152), 17),
    ],
    ids=["encrypted pptp", "arp in vxlan", "not vxlan", "gtp echo"],
)
def test_tunnel_content_that_is_not_ip_is_the_tunnels_own_flow(packet: bytes) -> None:
    (row,) = decode(packet, link_type=101)
    assert Outcome(row["outcome"]) is Outcome.FLOW
    assert describe(row)[::2] == ("192.0.2.1", "192.0.2.2", packet[9])


def test_later_fragments_follow_the_first_to_its_flow() -> None:
    whole = udp(bytes(64), sport=9, dport=7)
    first = ipv4(whole[:40], 17, identification=5, fragment=0x2000)
    later = ipv4(whole[40:], 17, identification=5, fragment=5)
    other = ipv4(whole[40:], 17, identification=6, fragment=5)
    rows = decode(later, first, later, other, link_type=101)
    waits = Outcome.FRAGMENT_WAITS
    assert rows["outcome"].tolist() == [waits, Outcome.FLOW, Outcome.FLOW, waits]
    assert rows["src_port"].tolist()[1:3] == [9, 9]
    assert rows["fragment"].tolist() == [2, 1, 2, 2]


def test_fragments_of_a_tunnel_belong_to_the_inner_flow() -> None:
    carried = gre(INNER)
    first = ipv4(carried[:48], 47, identification=5, fragment=0x2000)
    later = ipv4(carried[48:], 47, identification=5, fragment=6)
    rows = decode(first, later, link_type=101)
    assert describe(rows[0]) == describe(rows[1]) == ("10.0.0.1", 1234, "10.0.0.2", 443, 6)


def test_ipv6_fragments() -> None:
    whole = udp(bytes(64), sport=9, dport=7)
    first = ipv6(struct.pack(">BBHI", 17, 0, 1, 77) + whole[:40], 44)
    later = ipv6(struct.pack(">BBHI", 17, 0, 40, 77) + whole[40:], 44)
    rows = decode(first, later, link_type=101)
    assert describe(rows[0]) == describe(rows[1])
    assert rows["src_port"].tolist() == [9, 9]


def test_the_memory_of_fragments_is_bounded_and_forgets_with_time() -> None:
    firsts = [ipv4(udp(), 17, identification=n, fragment=0x2000) for n in range(5)]
    laters = [ipv4(bytes(8), 17, identification=n, fragment=2) for n in range(5)]
    batch = batch_of(firsts + laters, link_type=101)
    known = PacketDecoder(fragments=3).decode(batch)["outcome"][5:] == Outcome.FLOW
    assert known.tolist() == [False, False, True, True, True]
    batch.timestamp_ns[5:] = 61_000_000_000
    known = PacketDecoder().decode(batch)["outcome"][5:] == Outcome.FLOW
    assert not known.any()


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(frames(), mutated_frames()), min_size=1, max_size=12))
def test_the_decoder_equals_its_reference(packets: list[bytes]) -> None:
    batch = batch_of(packets)
    assert_rows_equal(
        PacketDecoder(fragments=4).decode(batch), decode_reference(batch, fragments=4)
    )


LINK_TYPES = [0, 1, 9, 12, 51, 101, 105, 108, 113, 228, 229, 276]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.binary(max_size=120), min_size=1, max_size=8),
    st.sampled_from(LINK_TYPES),
    st.integers(0, 200),
)
def test_random_bytes_never_raise(packets: list[bytes], link_type: int, cut: int) -> None:
    batch = batch_of(packets, link_type=link_type)
    batch.length[:] += cut
    rows = PacketDecoder().decode(batch)
    assert set(rows["outcome"].tolist()) <= set(Outcome)
    assert_rows_equal(rows, decode_reference(batch))


@settings(max_examples=60, deadline=None)
@given(st.lists(frames(), max_size=12), st.integers(1, 12))
def test_chunking_changes_nothing(packets: list[bytes], size: int) -> None:
    batch = batch_of(packets)
    decoder = PacketDecoder()
    parts = [decoder.decode(batch[at : at + size]) for at in range(0, len(batch), size)]
    got = np.concatenate([np.zeros(0, PACKET), *parts])
    assert_rows_equal(got, PacketDecoder().decode(batch))


def assert_rows_equal(got: np.ndarray, expected: np.ndarray) -> None:
    for name in PACKET.names or ():
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
