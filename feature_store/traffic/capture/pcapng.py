"""pcapng files (draft-ietf-opsawg-pcapng): sections, interfaces, and the three packet blocks."""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.damage import Damage
from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.capture.pcap import MAX_PACKET_BYTES
from feature_store.traffic.compiled import compiled, int64

SECTION_HEADER = 0x0A0D0D0A
INTERFACE_DESCRIPTION = 1
OBSOLETE_PACKET = 2
SIMPLE_PACKET = 3
ENHANCED_PACKET = 6
BYTE_ORDER_MAGIC = 0x1A2B3C4D
# Wireshark's limit; a larger one is damage, as no writer makes it.
MAX_BLOCK_BYTES = 16 << 20
# Of one section; those beyond are damage, as a table without a bound would let a small compressed
# file fill the memory.
MAX_INTERFACES = 1 << 16
# Keeps differences of two times inside int64: the year 2116.
MAX_TIMESTAMP_NS = 1 << 62

# Columns of the interface table that the kernel reads.
LINK_TYPE, SNAP_BYTES, MULTIPLIER, DIVISOR, BINARY_DIGITS, OFFSET_S = range(6)
# Why the kernel gave up the walk.
NEED_MORE, CONTROL_BLOCK, BAD_FRAMING = range(3)
# Entries of the kernel's counters.
BAD_BLOCKS, BAD_TIMESTAMPS, LAST_TIMESTAMP_NS = range(3)


class PcapngParser:
    """Takes a file's bytes as they come and gives batches of packets.

    Unknown blocks are skipped. A simple packet has no time of its own: it gets the time of the
    packet before it.
    """

    MAGIC = b"\x0a\x0d\x0d\x0a"

    def __init__(self, damage: Counter[Damage]) -> None:
        self._damage = damage
        self._big_endian = False
        self._interfaces = np.zeros((4, 6), np.int64)  # the first `_described` of them
        self._described = 0
        self._counters = np.zeros(3, np.int64)
        self.owed = 0
        self.finished = False

    def parse(self, buffer: NDArray[np.uint8]) -> tuple[PacketBatch, int]:
        """The packets of the whole blocks in `buffer`, and how many of its bytes they took."""
        position = min(self.owed, len(buffer))
        self.owed -= position
        columns = np.empty((5, len(buffer) // 16 + 1), np.int64)
        count = 0
        why = CONTROL_BLOCK
        while why == CONTROL_BLOCK:
            interfaces = self._interfaces[: self._described]
            count, position, why = walk_blocks(
                buffer, position, self._big_endian, interfaces, columns, count, self._counters
            )
            if why == CONTROL_BLOCK:
                taken = self._read_control_block(buffer, position)
                if taken == 0:
                    break
                position += taken
        if why == BAD_FRAMING:
            self._stop()
        elif len(buffer) - position >= 12 and not self.finished:
            position = self._skip_if_large(buffer, position)
        self._count_damage()
        offset, captured, length, timestamp_ns, link_type = columns[:, :count]
        return PacketBatch(buffer, offset, captured, length, timestamp_ns, link_type), position

    def _read_control_block(self, buffer: NDArray[np.uint8], at: int) -> int:
        """Read a section header or interface description; 0 when it is not all there yet."""
        if len(buffer) - at < 12:
            return 0
        head = buffer[at : at + 12].tobytes()
        is_section = head[:4] == PcapngParser.MAGIC
        big_endian = self._big_endian
        if is_section:
            if int.from_bytes(head[8:12], "big") == BYTE_ORDER_MAGIC:
                big_endian = True
            elif int.from_bytes(head[8:12], "little") == BYTE_ORDER_MAGIC:
                big_endian = False
            else:
                self._stop()
                return 0
        size = int.from_bytes(head[4:8], "big" if big_endian else "little")
        size += -size % 4
        if not (28 if is_section else 20) <= size <= MAX_BLOCK_BYTES:
            self._stop()
            return 0
        if len(buffer) - at < size:
            return 0
        if is_section:
            self._big_endian = big_endian
            self._described = 0
        elif self._described == MAX_INTERFACES:
            self._damage[Damage.BAD_BLOCK] += 1
        else:
            block = buffer[at : at + size].tobytes()
            if self._described == len(self._interfaces):
                self._interfaces = np.vstack([self._interfaces, np.zeros_like(self._interfaces)])
            self._interfaces[self._described] = read_interface(block, ">" if big_endian else "<")
            self._described += 1
        return size

    def _skip_if_large(self, buffer: NDArray[np.uint8], at: int) -> int:
        # A block that is no packet need not fit the buffer: only its length matters.
        order = ">" if self._big_endian else "<"
        kind, size = struct.unpack(order + "II", buffer[at : at + 8].tobytes())
        size += -size % 4
        packet = kind in (OBSOLETE_PACKET, SIMPLE_PACKET, ENHANCED_PACKET)
        if packet or kind in (SECTION_HEADER, INTERFACE_DESCRIPTION):
            return at
        self.owed = at + size - len(buffer)
        return len(buffer)

    def _stop(self) -> None:
        self._damage[Damage.BAD_RECORD] += 1
        self.finished = True

    def _count_damage(self) -> None:
        for row, reason in ((BAD_BLOCKS, Damage.BAD_BLOCK), (BAD_TIMESTAMPS, Damage.BAD_TIMESTAMP)):
            if self._counters[row]:
                self._damage[reason] += int(self._counters[row])
                self._counters[row] = 0


def read_interface(block: bytes, order: str) -> NDArray[np.int64]:
    """An interface description as a row of the interface table."""
    row = np.zeros(6, np.int64)
    row[LINK_TYPE], row[SNAP_BYTES] = struct.unpack_from(order + "H2xI", block, 8)
    row[MULTIPLIER], row[DIVISOR] = 1000, 1  # microseconds, unless if_tsresol says otherwise
    at = 16
    while at + 4 <= len(block) - 4:
        code, size = struct.unpack_from(order + "HH", block, at)
        value = block[at + 4 : at + 4 + size]
        if code == 0 or at + 4 + size > len(block) - 4:
            break
        if code == 9 and size == 1:  # if_tsresol
            digits = value[0] & 0x7F
            if value[0] & 0x80:
                row[BINARY_DIGITS] = digits
            row[MULTIPLIER] = 10 ** max(9 - digits, 0)
            row[DIVISOR] = 10 ** min(max(digits - 9, 0), 18)
        elif code == 14 and size == 8:  # if_tsoffset
            (row[OFFSET_S],) = struct.unpack(order + "q", value)
        at += 4 + size + (-size % 4)
    return row


@compiled
def walk_blocks(
    buffer: NDArray[np.uint8],
    begin: int,
    big_endian: bool,
    interfaces: NDArray[np.int64],
    columns: NDArray[np.int64],
    count: int,
    counters: NDArray[np.int64],
) -> tuple[int, int, int]:
    """Write offset, captured, length, time and link type of every packet into the rows of
    `columns` from column `count` on; stop at the first block that Python must read."""
    position = begin
    while position + 12 <= buffer.size:
        kind = _u32(buffer, position, big_endian)
        if kind in (SECTION_HEADER, INTERFACE_DESCRIPTION):
            return count, position, CONTROL_BLOCK
        size = _u32(buffer, position + 4, big_endian)
        size += -size % 4
        if size < 12 or size > MAX_BLOCK_BYTES:
            return count, position, BAD_FRAMING
        if position + size > buffer.size:
            return count, position, NEED_MORE
        if kind in (ENHANCED_PACKET, OBSOLETE_PACKET, SIMPLE_PACKET):
            if _read_packet(
                buffer, position, size, kind, big_endian, interfaces, columns, count, counters
            ):
                count += 1
            else:
                counters[BAD_BLOCKS] += 1
        position += size
    return count, position, NEED_MORE


@compiled
def _read_packet(
    buffer: NDArray[np.uint8],
    at: int,
    size: int,
    kind: int,
    big_endian: bool,
    interfaces: NDArray[np.int64],
    columns: NDArray[np.int64],
    count: int,
    counters: NDArray[np.int64],
) -> bool:
    header = 12 if kind == SIMPLE_PACKET else 28
    if size < header + 4:
        return False
    interface = 0
    if kind == ENHANCED_PACKET:
        interface = _u32(buffer, at + 8, big_endian)
    elif kind == OBSOLETE_PACKET:
        interface = _u16(buffer, at + 8, big_endian)
    if interface >= interfaces.shape[0]:
        return False
    if kind == SIMPLE_PACKET:
        length = _u32(buffer, at + 8, big_endian)
        captured = min(length, size - header - 4)
        if interfaces[0, SNAP_BYTES] > 0:
            captured = min(captured, interfaces[0, SNAP_BYTES])
    else:
        captured = _u32(buffer, at + 20, big_endian)
        length = _u32(buffer, at + 24, big_endian)
        if captured > size - header - 4:
            return False
        timestamp_ns = _nanoseconds(
            (_u32(buffer, at + 12, big_endian) << 32) | _u32(buffer, at + 16, big_endian),
            interfaces[interface],
        )
        if timestamp_ns < 0:
            counters[BAD_TIMESTAMPS] += 1
        else:
            counters[LAST_TIMESTAMP_NS] = timestamp_ns
    if captured > MAX_PACKET_BYTES:
        return False
    columns[0, count] = at + header
    columns[1, count] = captured
    columns[2, count] = max(captured, length)
    columns[3, count] = counters[LAST_TIMESTAMP_NS]
    columns[4, count] = interfaces[interface, LINK_TYPE]
    return True


@compiled
def _nanoseconds(ticks: int, interface: NDArray[np.int64]) -> int:
    """-1 outside [0, MAX_TIMESTAMP_NS)."""
    digits = interface[BINARY_DIGITS]
    if ticks < 0:
        return -1
    if digits > 0:
        seconds = ticks >> digits if digits < 63 else 0
        fraction = ticks - (seconds << digits) if digits < 63 else ticks
        if digits > 32:  # what is below 2⁻³² s is below a nanosecond
            fraction = fraction >> (digits - 32) if digits - 32 < 63 else 0
            digits = 32
        if seconds >= MAX_TIMESTAMP_NS // 1_000_000_000:
            return -1
        result = seconds * 1_000_000_000 + ((fraction * 1_000_000_000) >> digits)
    else:
        if ticks > MAX_TIMESTAMP_NS // interface[MULTIPLIER]:
            return -1
        result = ticks * interface[MULTIPLIER] // interface[DIVISOR]
    # Not by its size, as -2^63 has none.
    furthest = MAX_TIMESTAMP_NS // 1_000_000_000
    if interface[OFFSET_S] < -furthest or interface[OFFSET_S] > furthest:
        return -1
    result += interface[OFFSET_S] * 1_000_000_000
    if result < 0 or result >= MAX_TIMESTAMP_NS:
        return -1
    return int64(result)


@compiled
def _u32(buffer: NDArray[np.uint8], at: int, big_endian: bool) -> int:
    if big_endian:
        return (_u16(buffer, at, True) << 16) | _u16(buffer, at + 2, True)
    return (_u16(buffer, at + 2, False) << 16) | _u16(buffer, at, False)


@compiled
def _u16(buffer: NDArray[np.uint8], at: int, big_endian: bool) -> int:
    a, b = int64(buffer[at]), int64(buffer[at + 1])
    if big_endian:
        return (a << 8) | b
    return (b << 8) | a
