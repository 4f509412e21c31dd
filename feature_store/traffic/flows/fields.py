"""The header fields of a packet that say how its sender behaves, and not who or where it is: IP's,
its transport's, and those of the message that its payload begins with (`messages.py`).

What is left out, and why, is in `features.protected`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled, int64
from feature_store.traffic.flows.messages import MESSAGE_FIELDS, read_message
from feature_store.traffic.flows.reference_messages import read_message_reference

# Columns of `FlowBatch.fields`, all uint16 and 0 where the packet has no such header.
HEADER_FIELDS = (
    "ip_header_bytes",  # with options and extension headers
    "traffic_class",  # DSCP and ECN
    "fragment_bits",  # IPv4: 2 may not be fragmented, 1 more to come
    "hop_limit_class",  # TTL rounded up to 32, 64, 128 or 255: what the sender began with
    "transport_header_bytes",
    "payload_bytes",  # at most 65535
    "tcp_flags",
    "tcp_window",
    "tcp_mss",
    "tcp_window_scale",  # shift + 1
    "tcp_options",  # bit k: an option of kind k < 15 is there; bit 15: one of a higher kind
    "icmp_type_code",  # type × 256 + code
    *MESSAGE_FIELDS,
)
_MESSAGE = HEADER_FIELDS.index(MESSAGE_FIELDS[0])


@compiled
def read_fields(
    data: NDArray[np.uint8], packets: NDArray[np.void], offset: NDArray[np.int64],
    captured: NDArray[np.int64], chosen: NDArray[np.int64], fields: NDArray[np.uint16],
) -> None:  # fmt: skip
    """Fill row i of `fields` (len(chosen), K), which is zero, from packet `chosen[i]`."""
    for row in range(chosen.size):
        i = chosen[row]
        packet = packets[i]
        bytes_ = data[offset[i] : offset[i] + captured[i]]
        network, transport = packet["network_offset"], packet["transport_offset"]
        fields[row, 0] = transport - network
        if bytes_[network] >> 4 == 4:
            fields[row, 1] = bytes_[network + 1]
            fields[row, 2] = (bytes_[network + 6] >> 5) & 3
            fields[row, 3] = _hop_limit_class(bytes_[network + 8])
        else:
            fields[row, 1] = (bytes_[network] & 15) << 4 | bytes_[network + 1] >> 4
            fields[row, 3] = _hop_limit_class(bytes_[network + 7])
        fields[row, 4] = packet["payload_offset"] - transport
        fields[row, 5] = min(packet["payload_length"], 65535)
        if packet["fragment"] == 2:
            continue
        if packet["protocol"] == 6:
            fields[row, 6] = packet["tcp_flags"]
            fields[row, 7] = (int64(bytes_[transport + 14]) << 8) | bytes_[transport + 15]
            _read_options(bytes_, transport + 20, packet["payload_offset"], fields[row])
        elif packet["protocol"] in (1, 58):
            fields[row, 11] = (int64(bytes_[transport]) << 8) | bytes_[transport + 1]
        payload, length = int64(packet["payload_offset"]), int64(packet["payload_length"])
        captured_payload = bytes_[min(payload, bytes_.size) : min(payload + length, bytes_.size)]
        read_message(captured_payload, length, packet["protocol"], fields[row, _MESSAGE:])


@compiled
def _read_options(bytes_: NDArray[np.uint8], at: int, end: int, fields: NDArray[np.uint16]) -> None:
    """TCP options (RFC 9293 section 3.1), as far as they were captured."""
    end = min(end, bytes_.size)
    while at < end and bytes_[at] != 0:
        kind = bytes_[at]
        fields[10] |= np.uint16(1 << min(kind, 15))
        if kind == 1:
            at += 1
            continue
        if at + 1 >= end or bytes_[at + 1] < 2:
            return
        size = int64(bytes_[at + 1])
        if at + size > end:
            return
        if kind == 2 and size == 4:
            fields[8] = (int64(bytes_[at + 2]) << 8) | bytes_[at + 3]
        elif kind == 3 and size == 3:
            fields[9] = int64(bytes_[at + 2]) + 1
        at += size


@compiled
def _hop_limit_class(hop_limit: int) -> int:
    if hop_limit <= 32:
        return 32
    if hop_limit <= 64:
        return 64
    return 128 if hop_limit <= 128 else 255


def read_fields_reference(packet: bytes, decoded: np.void) -> dict[str, int]:
    """What `read_fields` gives for one packet, plainly."""
    network, transport = int(decoded["network_offset"]), int(decoded["transport_offset"])
    payload = int(decoded["payload_offset"])
    fields = dict.fromkeys(HEADER_FIELDS, 0)
    fields["ip_header_bytes"] = transport - network
    if packet[network] >> 4 == 4:
        fields["traffic_class"] = packet[network + 1]
        fields["fragment_bits"] = packet[network + 6] >> 5 & 3
        hop_limit = packet[network + 8]
    else:
        fields["traffic_class"] = int.from_bytes(packet[network : network + 2], "big") >> 4 & 255
        hop_limit = packet[network + 7]
    fields["hop_limit_class"] = next(top for top in (32, 64, 128, 255) if hop_limit <= top)
    fields["transport_header_bytes"] = payload - transport
    fields["payload_bytes"] = min(int(decoded["payload_length"]), 65535)
    if decoded["fragment"] == 2:
        return fields
    if decoded["protocol"] == 6:
        fields["tcp_flags"] = packet[transport + 13]
        fields["tcp_window"] = int.from_bytes(packet[transport + 14 : transport + 16], "big")
        options = packet[transport + 20 : payload]
        while options and options[0] != 0:
            kind = options[0]
            fields["tcp_options"] |= 1 << min(kind, 15)
            size = 1 if kind == 1 else options[1] if len(options) > 1 else 0
            if size < 1 or (kind != 1 and size < 2) or size > len(options):
                break
            if (kind, size) == (2, 4):
                fields["tcp_mss"] = int.from_bytes(options[2:4], "big")
            if (kind, size) == (3, 3):
                fields["tcp_window_scale"] = options[2] + 1
            options = options[size:]
    elif decoded["protocol"] in (1, 58):
        fields["icmp_type_code"] = int.from_bytes(packet[transport : transport + 2], "big")
    length = int(decoded["payload_length"])
    said = packet[payload : payload + length]
    return fields | read_message_reference(said, length, int(decoded["protocol"]))
