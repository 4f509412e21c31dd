import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from feature_store.traffic.capture import NotACaptureError, open_capture
from feature_store.traffic.features import Tier, feature_table
from feature_store.traffic.flows import FlowBatch, FlowSettings
from feature_store.traffic.meter import FlowMeter, read_flows


@pytest.fixture(scope="module")
def captures(data_sets: Path) -> list[Path]:
    folders = [data_sets / "traffic" / name for name in ("ndpi", "robust")]
    files = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    if not files:
        pytest.skip(f"no captures in {data_sets / 'traffic'}")
    return files


def test_every_capture_is_read_and_every_packet_counted(captures: list[Path]) -> None:
    read = checked = 0
    for file in captures:
        try:
            capture = open_capture(file)
        except NotACaptureError:
            assert not plain(file).startswith(
                (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\n\r\r\n")
            )
            continue
        meter = FlowMeter(FlowSettings(max_flows=4096))
        with capture:
            flows = FlowBatch.concatenate([FlowBatch.empty(20), *read_flows(capture, meter)])
        packets = sum(meter.outcomes.values())
        assert flows.flow["packets"].sum() == meter.outcomes[1]
        assert np.isfinite(feature_table(flows, Tier.T1)[0]).all()
        read += 1
        expected = count_records(plain(file))
        if expected is not None:
            assert packets == expected, file
            checked += 1
    assert checked > read // 2


def plain(file: Path) -> bytes:
    data = file.read_bytes()
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def count_records(file: bytes) -> int | None:
    """The records of a classic pcap, by hopping from header to header; None for other files."""
    orders = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">"}
    order = orders.get(file[:4])
    if order is None:
        return None
    at, count = 24, 0
    while at + 16 <= len(file):
        (size,) = struct.unpack_from(order + "I", file, at + 8)
        if at + 16 + size > len(file):
            break
        at, count = at + 16 + size, count + 1
    return count
