"""Classic pcap files (draft-ietf-opsawg-pcap): microseconds or nanoseconds, either byte order,
and Kuznetzov's variant with longer record headers."""

from __future__ import annotations

import struct
from collections import Counter
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.damage import Damage
from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.compiled import compiled, int64

FILE_HEADER_BYTES = 24
# A record that claims more is damage: the limit of libpcap and Wireshark.
MAX_PACKET_BYTES = 262_144


class PcapParser:
    """Takes a file's bytes as they come and gives batches of packets."""

    # magic as the first four bytes → (byte order, nanoseconds, bytes of a record header)
    MAGIC: ClassVar[dict[bytes, tuple[str, bool, int]]] = {
        b"\xd4\xc3\xb2\xa1": ("<", False, 16),
        b"\xa1\xb2\xc3\xd4": (">", False, 16),
        b"\x4d\x3c\xb2\xa1": ("<", True, 16),
        b"\xa1\xb2\x3c\x4d": (">", True, 16),
        b"\x34\xcd\xb2\xa1": ("<", False, 24),
        b"\xa1\xb2\xcd\x34": (">", False, 24),
    }

    def __init__(self, damage: Counter[Damage]) -> None:
        self._damage = damage
        self._order = ""
        self._nanoseconds = False
        self._record_header_bytes = 16
        self._link_type = 0
        self.owed = 0
        self.finished = False

    def parse(self, buffer: NDArray[np.uint8]) -> tuple[PacketBatch, int]:
        """The whole records in `buffer`, and how many of its bytes they took."""
        begin = 0
        if not self._order:
            if len(buffer) < FILE_HEADER_BYTES:
                return PacketBatch.empty(), 0
            self._read_file_header(buffer[:FILE_HEADER_BYTES].tobytes())
            begin = FILE_HEADER_BYTES
        room = (len(buffer) - begin) // self._record_header_bytes + 1
        columns = np.empty((4, room), np.int64)
        count, position, bad = walk_records(
            buffer,
            begin,
            self._order == ">",
            self._record_header_bytes,
            1 if self._nanoseconds else 1000,
            columns,
        )
        if bad:
            self._damage[Damage.BAD_RECORD] += 1
            self.finished = True
        offset, captured, length, timestamp_ns = columns[:, :count]
        link_type = np.full(count, self._link_type, np.int64)
        return PacketBatch(buffer, offset, captured, length, timestamp_ns, link_type), position

    def _read_file_header(self, header: bytes) -> None:
        self._order, self._nanoseconds, self._record_header_bytes = self.MAGIC[header[:4]]
        (network,) = struct.unpack_from(self._order + "I", header, 20)
        self._link_type = network & 0xFFFF  # above it: the frame check sequence's length


@compiled
def walk_records(
    buffer: NDArray[np.uint8],
    begin: int,
    big_endian: bool,
    header_bytes: int,
    fraction_ns: int,
    columns: NDArray[np.int64],
) -> tuple[int, int, bool]:
    """Write offset, captured, length and time of every whole record into the rows of `columns`;
    give their number, the position behind the last one, and whether the next one is damaged."""
    position, count = begin, 0
    while position + header_bytes <= buffer.size:
        captured = _u32(buffer, position + 8, big_endian)
        if captured > MAX_PACKET_BYTES:
            return count, position, True
        end = position + header_bytes + captured
        if end > buffer.size:
            break
        seconds = _u32(buffer, position, big_endian)
        fraction = _u32(buffer, position + 4, big_endian)
        columns[0, count] = position + header_bytes
        columns[1, count] = captured
        columns[2, count] = max(captured, _u32(buffer, position + 12, big_endian))
        columns[3, count] = seconds * 1_000_000_000 + fraction * fraction_ns
        count += 1
        position = end
    return count, position, False


@compiled
def _u32(buffer: NDArray[np.uint8], at: int, big_endian: bool) -> int:
    a, b = int64(buffer[at]), int64(buffer[at + 1])
    c, d = int64(buffer[at + 2]), int64(buffer[at + 3])
    if big_endian:
        return (a << 24) | (b << 16) | (c << 8) | d
    return (d << 24) | (c << 16) | (b << 8) | a
