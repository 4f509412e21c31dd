import gzip
import io
import struct
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.traffic.capture import (
    Capture,
    Damage,
    InterfaceUnavailableError,
    NotACaptureError,
    PacketBatch,
    open_capture,
    open_interface,
)
from feature_store.traffic.capture.pcapng import MAX_INTERFACES

from .conftest import batches_equal, block, enhanced, ethernet, interface, option, pcap, section

PACKETS = [ethernet(bytes([n]) * (46 + n)) for n in range(5)]


def read(file: bytes, *, chunk_bytes: int = 1 << 16) -> tuple[list[bytes], list[int], Capture]:
    capture = open_capture(io.BytesIO(file), chunk_bytes=chunk_bytes)
    packets: list[bytes] = []
    times: list[int] = []
    for batch in capture:
        packets += [batch.packet(i) for i in range(len(batch))]
        times += batch.timestamp_ns.tolist()
    return packets, times, capture


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("nanoseconds", "unit"), [(False, 1000), (True, 1)])
def test_pcap_in_both_byte_orders_and_resolutions(order: str, nanoseconds: bool, unit: int) -> None:
    times = [(1_700_000_000 + n, 123_456 + n) for n in range(5)]
    file = pcap(PACKETS, order=order, nanoseconds=nanoseconds, times=times)
    packets, read_times, capture = read(file)
    assert packets == PACKETS
    assert read_times == [s * 10**9 + f * unit for s, f in times]
    assert not capture.damage


def test_pcap_with_kuznetzovs_record_headers() -> None:
    file = struct.pack("<IHHiIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 1)
    for packet in PACKETS:
        file += struct.pack("<IIIIIHBB", 1, 2, len(packet), len(packet), 0, 0, 0, 0) + packet
    assert read(file)[0] == PACKETS


def test_a_frame_check_sequence_in_the_link_type_is_ignored() -> None:
    (batch,) = open_capture(io.BytesIO(pcap(PACKETS, link_type=0xF4000001)))
    assert set(batch.link_type.tolist()) == {1}


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_with_sections_interfaces_and_all_packet_blocks(order: str) -> None:
    old = struct.pack(order + "HHIIII", 1, 0, 0, 7, 60, 60) + bytes(60)
    simple = struct.pack(order + "I", 61) + bytes(61)
    file = (
        section(order)
        + interface(1, order)
        + interface(101, order, options=option(9, b"\x09", order))
        + block(0x0BAD, b"unknown", order)
        + enhanced(PACKETS[0], 5, order=order)
        + enhanced(PACKETS[1], 6, 1, order=order)
        + block(2, old, order)
        + block(3, simple, order)
        + section("<")
        + interface(113)
        + enhanced(PACKETS[2], 8)
    )
    (batch,) = open_capture(io.BytesIO(file))
    assert batch.timestamp_ns.tolist() == [5000, 6, 7, 7, 8000]
    assert batch.link_type.tolist() == [1, 101, 101, 1, 113]
    assert batch.captured.tolist() == [60, 61, 60, 61, 62]


@pytest.mark.parametrize(
    ("options", "ticks", "expected"),
    [
        (option(9, b"\x03"), 1_500, 1_500_000_000),
        (option(9, b"\x0c"), 2_000_000, 2_000),
        (option(9, bytes([0x80 | 10])), 1536, 1_500_000_000),
        (option(9, bytes([0x80 | 40])), 3 << 39, 1_500_000_000),
        (option(14, struct.pack("<q", 100)), 1, 100_000_001_000),
        (option(1, b"a comment") + option(9, b"\x06"), 1, 1_000),
    ],
)
def test_pcapng_time_units(options: bytes, ticks: int, expected: int) -> None:
    file = section() + interface(options=options) + enhanced(PACKETS[0], ticks)
    assert read(file)[1] == [expected]


def test_pcapng_damage_is_counted_and_the_rest_is_read() -> None:
    bad_interface = enhanced(PACKETS[0], 1, interface_id=9)
    too_long = block(6, struct.pack("<IIIII", 0, 0, 1, 5000, 5000) + bytes(8))
    far = enhanced(PACKETS[1], 2**63 + 5)
    file = section() + interface() + bad_interface + too_long + far + enhanced(PACKETS[2], 3)
    packets, times, capture = read(file)
    assert packets == PACKETS[1:3]
    assert times == [0, 3000]
    assert capture.damage == {Damage.BAD_BLOCK: 2, Damage.BAD_TIMESTAMP: 1}


def test_a_block_larger_than_the_buffer_is_skipped() -> None:
    file = section() + interface() + block(0x0BAD, bytes(100_000)) + enhanced(PACKETS[0], 1)
    packets, _, capture = read(file, chunk_bytes=4096)
    assert packets == PACKETS[:1]
    assert not capture.damage
    assert read(file[:50_000])[2].damage == {Damage.CUT_SHORT: 1}


def test_a_file_that_ends_inside_a_packet() -> None:
    packets, _, capture = read(pcap(PACKETS)[:-10])
    assert packets == PACKETS[:-1]
    assert capture.damage == {Damage.CUT_SHORT: 1}


def test_a_record_that_cannot_be_true_ends_the_reading() -> None:
    file = pcap(PACKETS) + struct.pack("<IIII", 0, 0, 2**31, 2**31) + bytes(100)
    packets, _, capture = read(file)
    assert packets == PACKETS
    assert capture.damage == {Damage.BAD_RECORD: 1}


def test_any_number_of_interfaces_costs_as_much_as_its_bytes() -> None:
    file = section() + interface() * MAX_INTERFACES + enhanced(PACKETS[0])
    started = time.process_time()
    packets, _, capture = read(file + enhanced(PACKETS[1], interface_id=MAX_INTERFACES - 1))
    assert time.process_time() - started < 5
    assert (packets, capture.damage) == (PACKETS[:2], {})
    file += interface() * 2 + enhanced(PACKETS[1], interface_id=MAX_INTERFACES)
    file += enhanced(PACKETS[2], interface_id=1)
    packets, _, capture = read(file)
    assert packets == [PACKETS[0], PACKETS[2]]
    assert capture.damage == {Damage.BAD_BLOCK: 3}
    file += section() + interface(link_type=113) + enhanced(PACKETS[3])
    assert read(file)[0] == [PACKETS[0], PACKETS[2], PACKETS[3]]


@pytest.mark.parametrize("offset", [-(2**63), -(2**62), 2**62, 2**63 - 1])
def test_a_time_that_no_clock_showed_is_damage(offset: int) -> None:
    options = option(14, struct.pack("<q", offset))
    packets, times, capture = read(section() + interface(options=options) + enhanced(PACKETS[0], 7))
    assert (packets, times) == (PACKETS[:1], [0])
    assert capture.damage == {Damage.BAD_TIMESTAMP: 1}


def test_gzip_of_both_in_several_members() -> None:
    file = pcap(PACKETS)
    assert read(gzip.compress(file[:100]) + gzip.compress(file[100:]))[0] == PACKETS
    assert read(gzip.compress(section() + interface() + enhanced(PACKETS[0])))[0] == PACKETS[:1]


def test_broken_gzip_gives_what_can_be_read() -> None:
    packed = gzip.compress(pcap(PACKETS * 100), mtime=0)
    packets, _, capture = read(packed[:-20])
    assert packets == (PACKETS * 100)[: len(packets)]
    assert packets
    assert capture.damage[Damage.GZIP_CORRUPT] == 1


@pytest.mark.parametrize("chunk_bytes", [64, 1000, 1 << 20])
def test_damage_in_gzip_costs_nothing_before_it(chunk_bytes: int) -> None:
    packed = bytearray(gzip.compress(pcap(PACKETS), mtime=0))
    packed[-8] ^= 1  # the checksum, behind everything
    packets, _, capture = read(bytes(packed), chunk_bytes=chunk_bytes)
    assert packets == PACKETS
    assert capture.damage == {Damage.GZIP_CORRUPT: 1}


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(64, 3000))
def test_how_much_of_a_broken_gzip_is_read_does_not_depend_on_chunks(
    data: st.DataObject, chunk_bytes: int
) -> None:
    file = bytearray(gzip.compress(pcap(PACKETS * 20) + bytes(300), mtime=0))
    for _ in range(data.draw(st.integers(0, 2))):
        file[data.draw(st.integers(12, len(file) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(file[: data.draw(st.integers(60, len(file)))])
    try:
        small = read(cut, chunk_bytes=chunk_bytes)
    except NotACaptureError:
        with pytest.raises(NotACaptureError):
            read(cut)
        return
    whole = read(cut)
    assert small[:2] == whole[:2]
    # Behind a record that cannot be true nothing is read, what is damaged there or is not.
    ended = small[2].damage[Damage.BAD_RECORD] or whole[2].damage[Damage.BAD_RECORD]
    assert ended or small[2].damage == whole[2].damage


class Arriving(io.RawIOBase):
    """A file that has one piece more whenever a look found its end."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def read(self, size: int = -1) -> bytes:
        found = self.pieces[0][:size] if self.pieces else b""
        if found:
            self.pieces[0] = self.pieces[0][len(found) :]
        else:
            self.pieces = self.pieces[1:]
        return found


def test_a_followed_gzip_goes_on_wherever_it_was_cut() -> None:
    file = pcap(PACKETS)
    first, second = gzip.compress(file[:100]), gzip.compress(file[100:])
    for cut in range(1, len(first + second)):
        whole = first + second
        stream = Arriving([whole[:cut], whole[cut:]])
        with open_capture(
            stream, follow=True, poll_s=0, stop=lambda stream=stream: not stream.pieces
        ) as capture:
            found = [batch.packet(i) for batch in capture for i in range(len(batch))]
        assert (found, capture.damage) == (PACKETS, {}), cut


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "it is empty"),
        (b"[{}]", "5b 7b 7d 5d"),
        (b"\xd4", "d4"),
        (gzip.compress(b"hello world", mtime=0), "68 65 6c 6c"),
        (b"\x1f\x8bxx", "not a whole gzip file"),
    ],
)
def test_what_is_no_capture_says_so_in_one_line(file: bytes, reason: str) -> None:
    with pytest.raises(NotACaptureError, match=reason) as error:
        open_capture(io.BytesIO(file))
    assert "\n" not in str(error.value)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(64, 3000), st.booleans())
def test_chunking_changes_nothing(packets: list[bytes], chunk_bytes: int, ng: bool) -> None:
    if ng:
        file = section() + interface() + b"".join(enhanced(p, n) for n, p in enumerate(packets))
    else:
        file = pcap(packets, times=[(0, n) for n in range(len(packets))])
    assert read(file, chunk_bytes=chunk_bytes)[:2] == (
        packets,
        [n * 1000 for n in range(len(packets))],
    )


@settings(max_examples=150, deadline=None)
@given(st.data(), st.booleans(), st.booleans())
def test_no_bytes_make_a_reader_raise(data: st.DataObject, ng: bool, packed: bool) -> None:
    file = bytearray(
        section() + interface() + enhanced(PACKETS[0]) + block(3, bytes(40))
        if ng
        else pcap(PACKETS[:2])
    )
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(4, len(file) - 1))] = data.draw(st.integers(0, 255))
    file += data.draw(st.binary(max_size=50))
    capture = open_capture(
        io.BytesIO(gzip.compress(file) if packed else bytes(file)), chunk_bytes=64
    )
    for batch in capture:
        assert (batch.captured >= 0).all()
        assert (batch.captured <= batch.length).all()
        assert (batch.offset + batch.captured <= len(batch.data)).all()
        assert ((batch.timestamp_ns >= 0) & (batch.timestamp_ns < 2**63 - 1)).all()


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_still_being_written_is_followed(tmp_path: Path, packed: bool) -> None:
    whole = pcap(PACKETS)
    whole = gzip.compress(whole) if packed else whole
    path = tmp_path / "growing.pcap"
    path.write_bytes(whole[:1])
    seen: list[bytes] = []

    def write() -> None:
        for at in range(1, len(whole), 40):
            with path.open("ab") as stream:
                stream.write(whole[at : at + 40])
            time.sleep(0.002)

    writer = threading.Thread(target=write)
    writer.start()
    deadline = time.monotonic() + 10
    with open_capture(
        path,
        follow=True,
        poll_s=0.001,
        stop=lambda: len(seen) == len(PACKETS) or time.monotonic() > deadline,
    ) as capture:
        for batch in capture:
            seen += [batch.packet(i) for i in range(len(batch))]
    writer.join()
    assert seen == PACKETS
    assert not capture.damage


def test_a_batch_from_packets_and_its_slices() -> None:
    batch = PacketBatch.from_packets(PACKETS, timestamp_ns=range(5), length=[9999] * 5)
    assert batches_equal(
        batch[1:3], PacketBatch.from_packets(PACKETS[1:3], timestamp_ns=[1, 2], length=[9999] * 2)
    )
    assert np.all(batch.length == 9999)
    with pytest.raises(ValueError, match="5 packets but 1 timestamps"):
        PacketBatch.from_packets(PACKETS, timestamp_ns=[0])


def test_an_interface_without_permission_names_the_capability(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("socket.socket", refuse)
    with pytest.raises(InterfaceUnavailableError, match=r"CAP_NET_RAW.*setcap"):
        open_interface("lo")
