"""What a classifier may not see: fields that say who or where a host is, or when it ran.

`PROTECTED` lists header fields, and `protect_headers` is made from it. `PROTECTED_CONTENT` lists
what is left unread of the messages that payloads begin with. Tests randomise every row of both and
ask that the features of tiers T0 and T1 stay what they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled, int64
from feature_store.traffic.flows.flow import HEADER_BYTES, FlowBatch
from feature_store.traffic.flows.messages import MessageKind


class Header(IntEnum):
    """The headers that have fields to protect; of any other, nothing is kept."""

    IPV4 = 0
    IPV6 = 1
    TCP = 2
    UDP = 3
    ICMP = 4
    SCTP = 5


@dataclass(frozen=True, slots=True)
class ProtectedField:
    """`length` bytes of a header from `offset` on; `first_mask` says which bits of the first."""

    header: Header
    name: str
    offset: int
    length: int
    why: str
    first_mask: int = 0xFF
    rounded: bool = False  # not removed, but rounded up to 32, 64, 128 or 255


@dataclass(frozen=True, slots=True)
class ProtectedContent:
    """Something within a kind of message that `flows.messages` does not read."""

    kind: MessageKind
    name: str
    why: str


WHO = "names a host"
PATH = "tells the distance, and so the place of capture; the class tells the system"
SERIAL = "counts one host's packets or bytes: joins packets of one recording"
RANDOM = "drawn at random for each flow: joins packets of one flow"
DERIVED = "a function of protected fields"
SERVICE = "names the service by convention: the port rule is a baseline, not a feature"
ANYTHING = "may hold addresses, clocks, sequence numbers, keys"

PROTECTED = (
    ProtectedField(Header.IPV4, "identification", 4, 2, SERIAL),
    ProtectedField(Header.IPV4, "time to live", 8, 1, PATH, rounded=True),
    ProtectedField(Header.IPV4, "checksum", 10, 2, DERIVED),
    ProtectedField(Header.IPV4, "source address", 12, 4, WHO),
    ProtectedField(Header.IPV4, "destination address", 16, 4, WHO),
    ProtectedField(Header.IPV4, "options", 20, 40, ANYTHING),
    ProtectedField(Header.IPV6, "flow label", 1, 3, RANDOM, first_mask=0x0F),
    ProtectedField(Header.IPV6, "hop limit", 7, 1, PATH, rounded=True),
    ProtectedField(Header.IPV6, "source address", 8, 16, WHO),
    ProtectedField(Header.IPV6, "destination address", 24, 16, WHO),
    ProtectedField(Header.IPV6, "extension headers", 40, 40, ANYTHING),
    ProtectedField(Header.TCP, "source port", 0, 2, SERVICE),
    ProtectedField(Header.TCP, "destination port", 2, 2, SERVICE),
    ProtectedField(Header.TCP, "sequence number", 4, 4, SERIAL),
    ProtectedField(Header.TCP, "acknowledgement number", 8, 4, SERIAL),
    ProtectedField(Header.TCP, "checksum", 16, 2, DERIVED),
    ProtectedField(Header.TCP, "urgent pointer", 18, 2, SERIAL),
    # Of options, the kinds and lengths stay, and the contents of `KEPT_OPTIONS`.
    ProtectedField(Header.TCP, "options: timestamps, SACK, cookies, keys", 20, 40, ANYTHING),
    ProtectedField(Header.UDP, "source port", 0, 2, SERVICE),
    ProtectedField(Header.UDP, "destination port", 2, 2, SERVICE),
    ProtectedField(Header.UDP, "checksum", 6, 2, DERIVED),
    ProtectedField(Header.ICMP, "checksum", 2, 2, DERIVED),
    ProtectedField(Header.ICMP, "identifier, sequence number, address", 4, 4, ANYTHING),
    ProtectedField(Header.SCTP, "source port", 0, 2, SERVICE),
    ProtectedField(Header.SCTP, "destination port", 2, 2, SERVICE),
    ProtectedField(Header.SCTP, "verification tag", 4, 4, RANDOM),
    ProtectedField(Header.SCTP, "checksum", 8, 4, DERIVED),
)
PROTECTED_CONTENT = (
    ProtectedContent(MessageKind.TLS, "server name (SNI)", WHO),
    ProtectedContent(MessageKind.TLS, "random, session id", RANDOM),
    ProtectedContent(MessageKind.TLS, "tickets, key shares, other extensions' contents", ANYTHING),
    ProtectedContent(MessageKind.HTTP_REQUEST, "path and header fields", WHO),
    ProtectedContent(MessageKind.HTTP_RESPONSE, "header fields and content", ANYTHING),
    ProtectedContent(MessageKind.REPLY, "text", WHO),
    ProtectedContent(MessageKind.SSH, "version of the software", ANYTHING),
    ProtectedContent(MessageKind.BITTORRENT, "what is shared, and the peer", WHO),
    ProtectedContent(MessageKind.QUIC, "connection ids, tokens", RANDOM),
    ProtectedContent(MessageKind.DTLS, "epoch, sequence number, hello", ANYTHING),
    ProtectedContent(MessageKind.DNS, "identifier", RANDOM),
    ProtectedContent(MessageKind.DNS, "names and addresses", WHO),
    ProtectedContent(MessageKind.STUN, "transaction id, attributes", ANYTHING),
    ProtectedContent(MessageKind.RTP, "sequence number, timestamp, source", SERIAL),
    ProtectedContent(MessageKind.RTCP, "source and reports", SERIAL),
    ProtectedContent(MessageKind.NTP, "clocks and reference", SERIAL),
    ProtectedContent(MessageKind.SSDP, "header fields", WHO),
    ProtectedContent(MessageKind.DHCP, "identifiers, addresses, names", WHO),
    ProtectedContent(MessageKind.TEXT, "all of it", WHO),
    ProtectedContent(MessageKind.BINARY, "all but the first byte", ANYTHING),
)
KEPT_OPTIONS = (2, 3)  # maximum segment size, window scale


def protect_headers(flows: FlowBatch) -> NDArray[np.uint8]:
    """(n, 5, 80) uint8: the headers of the first packets with every protected field zero."""
    headers = np.zeros((*flows.raw.shape[:2], HEADER_BYTES), np.uint8)
    copy_unprotected(
        flows.raw, flows.header_length, flows.flow["protocol"].copy(), KEPT_BITS, headers
    )
    return headers


def _kept_bits() -> NDArray[np.uint8]:
    """(headers, 80): the bits of each header that are not protected."""
    fixed = {Header.IPV4: 20, Header.IPV6: 40, Header.TCP: 20, Header.SCTP: 12}
    kept = np.zeros((len(Header), HEADER_BYTES), np.uint8)
    for header in Header:
        kept[header, : fixed.get(header, 8)] = 0xFF
    for field in PROTECTED:
        if not field.rounded:
            kept[field.header, field.offset] &= 0xFF ^ field.first_mask
            kept[field.header, field.offset + 1 : field.offset + field.length] = 0
    return kept


KEPT_BITS = _kept_bits()
IPV4, IPV6, TCP, UDP = int(Header.IPV4), int(Header.IPV6), int(Header.TCP), int(Header.UDP)
ICMP, SCTP = int(Header.ICMP), int(Header.SCTP)


@compiled
def copy_unprotected(
    raw: NDArray[np.uint8],
    header_length: NDArray[np.uint8],
    protocol: NDArray[np.uint8],
    kept_bits: NDArray[np.uint8],
    headers: NDArray[np.uint8],
) -> None:
    """Fill `headers` (n, 5, 80), which is zero, from `raw` (n, 5, 320)."""
    for flow in range(raw.shape[0]):
        for place in range(raw.shape[1]):
            source, target = raw[flow, place], headers[flow, place]
            network = int64(header_length[flow, place, 0])
            end = int64(header_length[flow, place, 1])
            if end == 0:
                continue
            header = IPV4 if source[0] >> 4 == 4 else IPV6
            for byte in range(network):
                target[byte] = source[byte] & kept_bits[header, byte]
            hop_limit = 8 if header == IPV4 else 7
            target[hop_limit] = _hop_limit_class(source[hop_limit])
            header = _transport_header(protocol[flow])
            if header < 0 or network == end:
                continue
            for byte in range(network, end):
                target[byte] = source[byte] & kept_bits[header, byte - network]
            if header == TCP:
                _copy_options(source, network + 20, end, target)


@compiled
def _copy_options(source: NDArray[np.uint8], at: int, end: int, target: NDArray[np.uint8]) -> None:
    while at < end and source[at] != 0:
        kind = source[at]
        target[at] = kind
        if kind == 1:
            at += 1
            continue
        if at + 1 >= end or source[at + 1] < 2:
            return
        size = int64(source[at + 1])
        target[at + 1] = size
        if kind in KEPT_OPTIONS:
            for byte in range(at + 2, min(at + size, end)):
                target[byte] = source[byte]
        at += size


@compiled
def _transport_header(protocol: int) -> int:
    if protocol == 6:
        return TCP
    if protocol == 17:
        return UDP
    if protocol in (1, 58):
        return ICMP
    return SCTP if protocol == 132 else -1


@compiled
def _hop_limit_class(hop_limit: int) -> int:
    if hop_limit <= 32:
        return 32
    if hop_limit <= 64:
        return 64
    return 128 if hop_limit <= 128 else 255
