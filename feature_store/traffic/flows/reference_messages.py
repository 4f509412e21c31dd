"""What `messages.read_message` gives, written plainly: tests compare the two."""

from __future__ import annotations

from feature_store.traffic.flows.messages import (
    CLIENT_HELLO,
    ENCRYPTED,
    EXTENSIONS,
    LARGEST_RECORD,
    MESSAGE_FIELDS,
    METHODS,
    SERVER_HELLO,
    MessageKind,
)


def read_message_reference(payload: bytes, length: int, protocol: int) -> dict[str, int]:
    """What is read of a payload that had `length` bytes, by name."""
    fields = dict.fromkeys(MESSAGE_FIELDS, 0)
    if payload:
        kind, type_ = _kind_reference(payload, length, protocol)
        fields["message_kind"], fields["message_type"] = kind, type_
        if kind is MessageKind.TLS:
            fields["record_bytes"] = int.from_bytes(payload[3:5], "big")
            if type_ in (22 * 256 + CLIENT_HELLO, 22 * 256 + SERVER_HELLO):
                fields |= _hello_reference(payload)
    return fields


def _kind_reference(payload: bytes, length: int, protocol: int) -> tuple[MessageKind, int]:
    first, start = payload[0], payload[:4]
    if start in METHODS:
        return MessageKind.HTTP_REQUEST, METHODS.index(start)
    if start == b"HTTP" and _digits(payload[9:12]):
        return MessageKind.HTTP_RESPONSE, int(payload[9:12])
    if protocol == 6:
        size = int.from_bytes(payload[3:5], "big")
        if (
            len(payload) >= 5
            and 20 <= first <= 24
            and payload[1] == 3
            and payload[2] <= 4
            and size <= LARGEST_RECORD
        ):
            message = payload[5:9]
            plain = len(message) == 4 and message[0] <= 24 and message[1:] <= b"\0\x40\0"
            in_clear = message[0] if plain else ENCRYPTED
            return MessageKind.TLS, first * 256 + (in_clear if first == 22 else 0)
        if start == b"SSH-":
            return MessageKind.SSH, 0
        if start == b"\x13Bit":
            return MessageKind.BITTORRENT, 0
        if _digits(payload[:3]) and payload[3:4] in (b" ", b"-"):
            return MessageKind.REPLY, int(payload[:3])
    if protocol == 17:
        counts = [int.from_bytes(payload[at : at + 2], "big") for at in range(4, 12, 2)]
        version = payload[1:5]
        if payload[4:8] == b"\x21\x12\xa4\x42" and first < 64:
            return MessageKind.STUN, int.from_bytes(payload[:2], "big")
        known = (
            version in (b"\0\0\0\1", b"\x6b\x33\x43\xcf")
            or version[:3] == b"\xff\0\0"
            or version[:2] in (b"Q0", b"T0")
        )
        if first >= 0xC0 and len(version) == 4 and known:
            return MessageKind.QUIC, first
        if len(payload) >= 13 and first & 1 and first & 8 and payload[9:11] == b"Q0":
            return MessageKind.QUIC, first
        if len(payload) >= 13 and 20 <= first <= 25 and payload[1] == 0xFE:
            return MessageKind.DTLS, first
        if start in (b"M-SE", b"NOTI"):
            return MessageKind.SSDP, int(start == b"NOTI")
        if payload[236:240] == b"\x63\x82\x53\x63" and first in (1, 2):
            options = payload[240:]
            return MessageKind.DHCP, first * 256 + (
                options[2] if len(options) > 2 and options[0] == 53 else 0
            )
        if len(payload) >= 12 and max(counts) <= 32 and any(counts) and not payload[3] & 0x40:
            return MessageKind.DNS, int.from_bytes(payload[2:4], "big")
        if length == 48 and first & 7 in range(1, 6) and first >> 3 & 7 in range(1, 5):
            return MessageKind.NTP, first & 7
        if len(payload) >= 8 and first >> 6 == 2 and payload[1] in range(200, 207):
            return MessageKind.RTCP, payload[1]
        if len(payload) >= 12 and first >> 6 == 2 and payload[1] & 127 not in range(35, 96):
            return MessageKind.RTP, payload[1] & 127
    text = all(32 <= byte < 127 or byte in b"\t\n\r" for byte in payload[:16])
    return (MessageKind.TEXT, 0) if text else (MessageKind.BINARY, first)


def _hello_reference(payload: bytes) -> dict[str, int]:
    fields: dict[str, int] = {}
    if len(payload) <= 43:
        return fields
    fields["hello_version"] = int.from_bytes(payload[9:11], "big")
    fields["hello_session_bytes"] = payload[43] + 1
    rest = payload[44 + payload[43] :]
    if len(rest) < 2:
        return fields
    said = int.from_bytes(rest[:2], "big")
    if payload[5] == CLIENT_HELLO:
        fields["hello_ciphers"] = said // 2
        rest = rest[2 + said :]
        if not rest:
            return fields
        rest = rest[1 + rest[0] :]
    else:
        fields["hello_ciphers"] = said
        rest = rest[3:]
    rest = rest[2:]
    kinds = []
    while len(rest) >= 4:
        kinds.append(int.from_bytes(rest[:2], "big"))
        rest = rest[4 + int.from_bytes(rest[2:4], "big") :]
    fields["hello_extensions"] = len(kinds)
    fields["hello_extension_kinds"] = sum(
        1 << bit for bit, kind in enumerate(EXTENSIONS) if kind in kinds
    )
    return fields


def _digits(text: bytes) -> bool:
    return len(text) == 3 and text.isdigit()
