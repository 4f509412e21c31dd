"""What is read of the message that a payload begins with, and what must not be."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.traffic.features import PROTECTED_CONTENT, ProtectedContent, Tier, flow_features
from feature_store.traffic.flows import HEADER_FIELDS
from feature_store.traffic.flows.messages import (
    EXTENSIONS,
    MESSAGE_FIELDS,
    MessageKind,
    read_message,
)
from feature_store.traffic.flows.reference_messages import read_message_reference
from feature_store.traffic.meter import FlowMeter

from .conftest import ACK, PSH, batch_of, ipv4, tcp, udp


def hello(
    name: bytes = b"films.example", *, random: bytes = bytes(32), session: bytes = bytes(32)
) -> bytes:
    """A ClientHello of two cipher suites and four extensions."""
    host = struct.pack(">HBH", len(name) + 3, 0, len(name)) + name
    extensions = b"".join(
        struct.pack(">HH", kind, len(content)) + content
        for kind, content in ((0, host), (10, b"\0\2\0\x1d"), (43, b"\2\3\4"), (0x5A5A, b""))
    )
    body = (
        b"\3\3" + random + bytes([len(session)]) + session + b"\0\4\x13\1\x13\2" + b"\1\0"
        + struct.pack(">H", len(extensions)) + extensions
    )  # fmt: skip
    message = b"\1" + len(body).to_bytes(3, "big") + body
    return b"\x16\3\1" + struct.pack(">H", len(message)) + message


SERVER_HELLO = (
    b"\x16\3\3\0\x2e"
    + b"\2\0\0\x2a"
    + b"\3\3"
    + bytes(32)
    + b"\0"
    + (b"\x13\2\0" + b"\0\4" + b"\0\x17\0\0")
)
QUERY = b"\x12\x34\1\0\0\1\0\0\0\0\0\0" + b"\5films\7example\0\0\1\0\1"
DISCOVER = b"\1\1\6\0" + bytes(232) + b"\x63\x82\x53\x63" + b"\x35\1\1\xff"
# Payload, IP protocol, kind, type.
SAID = [
    (hello(), 6, MessageKind.TLS, 0x1601),
    (SERVER_HELLO, 6, MessageKind.TLS, 0x1602),
    (b"\x16\3\3\0\x28" + b"\xa7" * 40, 6, MessageKind.TLS, 0x16FF),
    (b"\x17\3\3\0\x28" + b"\xa7" * 40, 6, MessageKind.TLS, 0x1700),
    (b"POST /films HTTP/1.1\r\n", 6, MessageKind.HTTP_REQUEST, 1),
    (b"HTTP/1.1 404 Not Found\r\n", 6, MessageKind.HTTP_RESPONSE, 404),
    (b"220 mail.example ESMTP\r\n", 6, MessageKind.REPLY, 220),
    (b"SSH-2.0-OpenSSH_9\r\n", 6, MessageKind.SSH, 0),
    (b"\x13BitTorrent protocol", 6, MessageKind.BITTORRENT, 0),
    (b"\xc3\0\0\0\1" + bytes(20), 17, MessageKind.QUIC, 0xC3),
    (b"\x0d" + bytes(8) + b"Q024\1", 17, MessageKind.QUIC, 0x0D),
    (b"\x16\xfe\xfd" + bytes(20), 17, MessageKind.DTLS, 22),
    (QUERY, 17, MessageKind.DNS, 0x0100),
    (b"\0\1\0\0\x21\x12\xa4\x42" + bytes(12), 17, MessageKind.STUN, 1),
    (b"\x80\x60" + bytes(range(20)), 17, MessageKind.RTP, 96),
    (b"\x81\xc9" + bytes(range(20)), 17, MessageKind.RTCP, 201),
    (b"\x23" + bytes(47), 17, MessageKind.NTP, 3),
    (b"M-SEARCH * HTTP/1.1\r\n", 17, MessageKind.SSDP, 0),
    (DISCOVER, 17, MessageKind.DHCP, 0x0101),
    (b"hello, world", 6, MessageKind.TEXT, 0),
    (b"\xfe\xed\xfa\xce", 6, MessageKind.BINARY, 0xFE),
    (b"", 6, MessageKind.NONE, 0),
]


def read(payload: bytes, protocol: int, length: int | None = None) -> dict[str, int]:
    fields = np.zeros(len(MESSAGE_FIELDS), np.uint16)
    captured = np.frombuffer(payload, np.uint8)
    read_message(captured, len(payload) if length is None else length, protocol, fields)
    return dict(zip(MESSAGE_FIELDS, fields.tolist(), strict=True))


@pytest.mark.parametrize(
    ("payload", "protocol", "kind", "kind_type"), SAID, ids=lambda each: str(each)[:12]
)
def test_the_kind_and_type_of_a_message(payload, protocol, kind, kind_type):
    found = read(payload, protocol)
    assert (MessageKind(found["message_kind"]), found["message_type"]) == (kind, kind_type)


def test_a_hello_is_read_as_dissectors_do():
    assert read(hello(), 6) == {
        "message_kind": MessageKind.TLS,
        "message_type": 0x1601,
        "record_bytes": len(hello()) - 5,
        "hello_version": 0x0303,
        "hello_ciphers": 2,
        "hello_extensions": 4,
        "hello_extension_kinds": sum(1 << EXTENSIONS.index(kind) for kind in (0, 10, 43)),
        "hello_session_bytes": 33,
    }
    assert read(SERVER_HELLO, 6)["hello_ciphers"] == 0x1302


@settings(max_examples=300, deadline=None)
@given(
    said=st.sampled_from(SAID),
    cut=st.integers(0, 400),
    changes=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=4),
    protocol=st.sampled_from([6, 17, 1, 132]),
    more=st.integers(0, 40),
)
def test_what_is_read_is_what_the_plain_twin_reads(said, cut, changes, protocol, more):
    payload = bytearray(said[0][:cut])
    for at, value in changes:
        if at < len(payload):
            payload[at] = value
    for number in {protocol, said[1]}:
        found = read(bytes(payload), number, len(payload) + more)
        assert found == read_message_reference(bytes(payload), len(payload) + more, number)


@settings(max_examples=200, deadline=None)
@given(payload=st.binary(max_size=80), protocol=st.sampled_from([6, 17]))
def test_any_bytes_can_be_read(payload, protocol):
    assert read(payload, protocol) == read_message_reference(payload, len(payload), protocol)


def span(payload: bytes, content: bytes) -> tuple[int, int]:
    at = payload.index(content)
    return at, at + len(content)


# What is protected: a payload, its protocol, and the bytes in which it stands.
RTP = b"\x80\x60" + bytes(range(20))
RTCP = b"\x81\xc9" + bytes(range(20))
STUN = b"\0\1\0\x0c\x21\x12\xa4\x42" + bytes(24)
HANDSHAKE = b"\x13BitTorrent protocol" + bytes(48)
NOTICE = b"NOTIFY * HTTP/1.1\r\nLOCATION: http://10.0.0.7/\r\n"
PLACES = {
    "server name (SNI)": (hello(), 6, span(hello(), b"films.example")),
    "random, session id": (hello(), 6, (11, 43)),
    "tickets, key shares, other extensions' contents": (hello(), 6, span(hello(), b"\2\3\4")),
    "path and header fields": (b"GET /films?user=7 HTTP/1.1", 6, (4, 26)),
    "header fields and content": (b"HTTP/1.1 200 OK\r\nSet-Cookie: 7", 6, (12, 31)),
    "text": (b"220 mail.example ESMTP", 6, (4, 22)),
    "version of the software": (b"SSH-2.0-OpenSSH_9", 6, (4, 17)),
    "what is shared, and the peer": (HANDSHAKE, 6, (20, 68)),
    "connection ids, tokens": (b"\xc3\0\0\0\1" + bytes(30), 17, (5, 35)),
    "epoch, sequence number, hello": (b"\x16\xfe\xfd" + bytes(30), 17, (3, 33)),
    "identifier": (QUERY, 17, (0, 2)),
    "names and addresses": (QUERY, 17, (12, len(QUERY))),
    "transaction id, attributes": (STUN, 17, (8, 32)),
    "sequence number, timestamp, source": (RTP, 17, (2, 22)),
    "source and reports": (RTCP, 17, (4, 22)),
    "clocks and reference": (b"\x23" + bytes(47), 17, (12, 48)),
    "header fields": (NOTICE, 17, (4, len(NOTICE))),
    "identifiers, addresses, names": (DISCOVER, 17, (4, 236)),
    "all of it": (b"a line of some text and then anything", 6, (16, 37)),
    "all but the first byte": (b"\xfe\1\2\3\4\5\6", 6, (1, 7)),
}


@pytest.mark.parametrize(
    "content", PROTECTED_CONTENT, ids=lambda each: f"{each.kind.name} {each.name}"
)
@settings(max_examples=20, deadline=None)
@given(noise=st.binary(min_size=300, max_size=300))
def test_no_protected_content_changes_what_is_read(content: ProtectedContent, noise: bytes):
    payload, protocol, (begin, end) = PLACES[content.name]
    before = read(payload, protocol)
    assert before["message_kind"] == content.kind
    changed = payload[:begin] + noise[: end - begin] + payload[end:]
    assert read(changed, protocol) == before


def test_t1_sees_the_message_and_t0_does_not():
    packets = [ipv4(tcp(payload, flags=ACK | PSH), 6) for payload in (hello(), SERVER_HELLO)]
    packets.append(ipv4(udp(QUERY, sport=4000, dport=53), 17))
    meter = FlowMeter()
    batch = batch_of(packets, times_s=[0.0, 0.1, 0.2], link_type=101)
    flows = [each for found in (meter.add(batch), meter.finish()) for each in found]
    kind = HEADER_FIELDS.index("message_kind")
    seen = {
        tuple(row[:kept])
        for each in flows
        for row, kept in zip(
            flow_features(each, Tier.T1).fields[:, :, kind].tolist(),
            each.flow["kept"].tolist(),
            strict=True,
        )
    }
    assert seen == {(MessageKind.TLS, MessageKind.TLS), (MessageKind.DNS,)}
    assert all(flow_features(each, Tier.T0).fields.size == 0 for each in flows)
