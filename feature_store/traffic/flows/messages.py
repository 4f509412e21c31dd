"""What a packet's payload begins with, as far as it says so in the clear.

Of a message, its kind, its type and the lengths and counts of its header are read: what any
dissector shows in its summary. Nothing is read that names a host or a person, or that was drawn at
random: no server name (SNI), no domain, no path, no header of HTTP, no identifier, no key.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled, int64
from feature_store.traffic.packets.layer import u16, u32

# The last columns of `fields.HEADER_FIELDS`, all uint16 and 0 where there is no such thing.
MESSAGE_FIELDS = (
    "message_kind",  # MessageKind
    "message_type",  # of its kind: see `MessageKind`
    "record_bytes",  # TLS: what the first record says its length is
    "hello_version",  # TLS hello: the version in its body
    "hello_ciphers",  # ClientHello: how many cipher suites; ServerHello: which one
    "hello_extensions",  # TLS hello: how many extensions there are as far as it was captured
    "hello_extension_kinds",  # bit k: the extension `EXTENSIONS[k]` is there
    "hello_session_bytes",  # TLS hello: length of the session id + 1
)
# Types of TLS extensions (IANA, and two that were never registered: Next Protocol Negotiation and
# Channel ID).
EXTENSIONS = (0, 5, 10, 11, 13, 16, 18, 21, 22, 27, 35, 41, 43, 13172, 30032, 65281)


class MessageKind(IntEnum):
    """What a payload begins with, and what its `message_type` is."""

    NONE = 0  # no payload, or none that was captured
    TLS = 1  # content type × 256, + the handshake message's type, or 255 where it is encrypted
    HTTP_REQUEST = 2  # place in `METHODS`
    HTTP_RESPONSE = 3  # status
    REPLY = 4  # the three digits that a line of SMTP, FTP or NNTP begins with
    SSH = 5
    BITTORRENT = 6
    QUIC = 7  # the first byte
    DTLS = 8  # content type
    DNS = 9  # flags
    STUN = 10  # message type
    RTP = 11  # payload type
    RTCP = 12  # packet type
    NTP = 13  # mode
    SSDP = 14  # 0 search, 1 notice
    DHCP = 15  # op × 256 + message type
    TEXT = 16
    BINARY = 17  # the first byte, where most protocols have a type, an operation or a version


METHODS = (b"GET ", b"POST", b"HEAD", b"PUT ", b"DELE", b"OPTI", b"CONN", b"PATC")
ENCRYPTED = 255  # a handshake message's type that cannot be read
_TLS, _HTTP_REQUEST, _HTTP_RESPONSE = map(
    int, (MessageKind.TLS, MessageKind.HTTP_REQUEST, MessageKind.HTTP_RESPONSE)
)
_REPLY, _SSH, _BITTORRENT = map(int, (MessageKind.REPLY, MessageKind.SSH, MessageKind.BITTORRENT))
_QUIC, _DTLS, _DNS, _STUN = map(
    int, (MessageKind.QUIC, MessageKind.DTLS, MessageKind.DNS, MessageKind.STUN)
)
_RTP, _RTCP, _NTP = map(int, (MessageKind.RTP, MessageKind.RTCP, MessageKind.NTP))
_SSDP, _DHCP = int(MessageKind.SSDP), int(MessageKind.DHCP)
_TEXT, _BINARY = int(MessageKind.TEXT), int(MessageKind.BINARY)

LARGEST_RECORD = 2**14 + 2_048  # RFC 5246 section 6.2.3
_LAST_HANDSHAKE_TYPE = 24
CLIENT_HELLO, SERVER_HELLO = 1, 2
_SESSION = 43  # where a hello's session id begins: record, message, version, 32 random bytes
_LOOKED_AT = 16  # bytes that tell text from anything else
_MOST_RECORDS = 32  # of each section of a message of DNS
_DHCP_COOKIE, _DHCP_OPTIONS = 236, 240
_NTP_BYTES = 48
_METHOD_WORDS = np.array([int.from_bytes(each, "big") for each in METHODS], np.int64)
_HTTP_WORD, _SSH_WORD = int.from_bytes(b"HTTP", "big"), int.from_bytes(b"SSH-", "big")
_BITTORRENT_WORD = int.from_bytes(b"\x13Bit", "big")
_SEARCH_WORD, _NOTICE_WORD = int.from_bytes(b"M-SE", "big"), int.from_bytes(b"NOTI", "big")
_STUN_WORD, _DHCP_WORD = 0x2112A442, 0x63825363
_EXTENSIONS = np.array(EXTENSIONS, np.int64)


@compiled
def read_message(
    payload: NDArray[np.uint8], length: int, protocol: int, fields: NDArray[np.uint16]
) -> None:
    """Fill `fields` (8,), which is zero.

    Args:
        payload: what was captured of it. length: bytes that it had. protocol: IP's number.
    """
    if payload.size == 0:
        return
    kind, type_ = _BINARY, 0
    word = _word(payload, 0)
    method = _method(word)
    if method >= 0:
        kind, type_ = _HTTP_REQUEST, method
    elif word == _HTTP_WORD and payload.size >= 12 and _number(payload, 9) >= 0:
        kind, type_ = _HTTP_RESPONSE, _number(payload, 9)
    elif protocol == 6:
        kind, type_ = _of_stream(payload, word)
        if kind == _TLS:
            fields[2] = u16(payload, 3)
            if type_ >> 8 == 22 and type_ & 255 in (CLIENT_HELLO, SERVER_HELLO):
                _read_hello(payload, fields)
    elif protocol == 17:
        kind, type_ = _of_datagram(payload, word, length)
    if kind == _BINARY:
        if _is_text(payload):
            kind = _TEXT
        else:
            type_ = int64(payload[0])
    fields[0], fields[1] = kind, type_


@compiled
def _of_stream(payload: NDArray[np.uint8], word: int) -> tuple[int, int]:
    """Kind and type of what TCP carries."""
    if (
        payload.size >= 5
        and 20 <= payload[0] <= 24
        and payload[1] == 3
        and payload[2] <= 4
        and u16(payload, 3) <= LARGEST_RECORD
    ):
        type_ = int64(payload[0]) << 8
        if payload[0] == 22:
            plain = (
                payload.size >= 9
                and payload[5] <= _LAST_HANDSHAKE_TYPE
                and _word(payload, 5) & 0xFFFFFF <= 2**14
            )
            type_ |= int64(payload[5]) if plain else ENCRYPTED
        return _TLS, type_
    if word == _SSH_WORD:
        return _SSH, 0
    if word == _BITTORRENT_WORD:
        return _BITTORRENT, 0
    if payload.size >= 4 and payload[3] in (0x20, 0x2D) and _number(payload, 0) >= 0:
        return _REPLY, _number(payload, 0)
    return _BINARY, 0


@compiled
def _of_datagram(payload: NDArray[np.uint8], word: int, length: int) -> tuple[int, int]:
    """Kind and type of what UDP carries."""
    first = int64(payload[0])
    if _word(payload, 4) == _STUN_WORD and first < 64:
        return _STUN, u16(payload, 0)
    if (first & 0xC0 == 0xC0 and _is_quic(_word(payload, 1))) or _is_google(payload):
        return _QUIC, first
    if payload.size >= 13 and 20 <= first <= 25 and payload[1] == 0xFE:
        return _DTLS, first
    if word == _SEARCH_WORD:
        return _SSDP, 0
    if word == _NOTICE_WORD:
        return _SSDP, 1
    if _word(payload, _DHCP_COOKIE) == _DHCP_WORD and first in (1, 2):
        type_ = 0
        if payload.size > _DHCP_OPTIONS + 2 and payload[_DHCP_OPTIONS] == 53:
            type_ = int64(payload[_DHCP_OPTIONS + 2])
        return _DHCP, first << 8 | type_
    if _is_dns(payload):
        return _DNS, u16(payload, 2)
    if length == _NTP_BYTES and 1 <= first & 7 <= 5 and 1 <= first >> 3 & 7 <= 4:
        return _NTP, first & 7
    if payload.size >= 8 and first >> 6 == 2:
        if 200 <= payload[1] <= 206:
            return _RTCP, int64(payload[1])
        type_ = int64(payload[1]) & 127
        if payload.size >= 12 and (type_ <= 34 or type_ >= 96):
            return _RTP, type_
    return _BINARY, 0


@compiled
def _read_hello(payload: NDArray[np.uint8], fields: NDArray[np.uint16]) -> None:
    """A ClientHello or ServerHello (RFC 8446 section 4.1), as far as it was captured."""
    if payload.size <= _SESSION:
        return
    fields[3] = u16(payload, 9)
    session = int64(payload[_SESSION])
    fields[7] = session + 1
    at = _SESSION + 1 + session
    if at + 2 > payload.size:
        return
    said = u16(payload, at)
    if payload[5] == CLIENT_HELLO:
        fields[4] = said >> 1
        at += 2 + said
        if at >= payload.size:
            return
        at += 1 + int64(payload[at])  # compression methods
    else:
        fields[4] = said
        at += 3
    at += 2  # their length
    while at + 4 <= payload.size:
        kind = u16(payload, at)
        for bit in range(_EXTENSIONS.size):
            if _EXTENSIONS[bit] == kind:
                fields[6] |= np.uint16(1 << bit)
        fields[5] += np.uint16(1)
        at += 4 + u16(payload, at + 2)


@compiled
def _is_quic(version: int) -> bool:
    """Versions of RFC 9000 and 9369, of drafts, and Google's."""
    return (
        version in (1, 0x6B3343CF)
        or version >> 8 == 0xFF0000
        or version >> 16 in (0x5130, 0x5430)  # Q0, T0
    )


@compiled
def _is_google(payload: NDArray[np.uint8]) -> bool:
    """The header before RFC 9000: flags, a connection id of 8 bytes, a version such as Q024."""
    return payload.size >= 13 and payload[0] & 9 == 9 and u16(payload, 9) == 0x5130


@compiled
def _is_dns(payload: NDArray[np.uint8]) -> bool:
    if payload.size < 12:
        return False
    records = 0
    for at in range(4, 12, 2):
        count = u16(payload, at)
        if count > _MOST_RECORDS:
            return False
        records += count
    return records > 0 and payload[3] & 0x40 == 0  # the bit that must be zero


@compiled
def _is_text(payload: NDArray[np.uint8]) -> bool:
    for at in range(min(payload.size, _LOOKED_AT)):
        byte = payload[at]
        if not (32 <= byte < 127 or byte in (9, 10, 13)):
            return False
    return True


@compiled
def _method(word: int) -> int:
    for at in range(_METHOD_WORDS.size):
        if _METHOD_WORDS[at] == word:
            return at
    return -1


@compiled
def _number(payload: NDArray[np.uint8], at: int) -> int:
    """Three digits; -1 where there are none."""
    number = 0
    for place in range(at, at + 3):
        digit = int64(payload[place]) - 48
        if not 0 <= digit <= 9:
            return -1
        number = 10 * number + digit
    return number


@compiled
def _word(payload: NDArray[np.uint8], at: int) -> int:
    """32 bits; -1 where the payload ends before."""
    return u32(payload, at) if at + 4 <= payload.size else -1
