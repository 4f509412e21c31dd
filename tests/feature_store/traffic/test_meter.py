import io
import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.traffic.capture import PacketBatch, open_capture
from feature_store.traffic.flows import EndReason, FlowBatch, FlowSettings
from feature_store.traffic.meter import FlowMeter, read_flows
from feature_store.traffic.packets import Outcome
from feature_store.traffic.report import flow_lines

from .conftest import batch_of, ethernet, frames, ipv4, pcap, tcp, udp

FRAMES = [ethernet(ipv4(udp(b"question"), 17)), ethernet(bytes(28), 0x0806), ethernet(b"\x45")]


@settings(max_examples=60, deadline=None)
@given(st.lists(frames(), min_size=1, max_size=30), st.integers(64, 2000), st.data())
def test_one_file_or_many_in_any_chunks_give_the_same_flows(
    packets: list[bytes], chunk_bytes: int, data: st.DataObject
) -> None:
    times = [(n, 0) for n in range(len(packets))]
    expected = collect([pcap(packets, times=times)], chunk_bytes=1 << 20)
    cut = data.draw(st.integers(0, len(packets)))
    parts = [pcap(packets[:cut], times=times[:cut]), pcap(packets[cut:], times=times[cut:])]
    got = collect(parts, chunk_bytes=chunk_bytes)
    for a, b in zip(got.columns(), expected.columns(), strict=True):
        np.testing.assert_array_equal(a, b)


def collect(files: list[bytes], *, chunk_bytes: int) -> FlowBatch:
    meter = FlowMeter(FlowSettings(idle_s=5, active_s=15, linger_s=2))
    flows = [FlowBatch.empty(20)]
    for file in files:
        capture = open_capture(io.BytesIO(file), chunk_bytes=chunk_bytes)
        flows += read_flows(capture, meter, finish=False)
    flows += meter.finish()
    return FlowBatch.concatenate(flows)


def test_every_packet_has_one_outcome() -> None:
    meter = FlowMeter()
    list(read_flows([batch_of(FRAMES)], meter))
    assert meter.outcomes == {Outcome.FLOW: 1, Outcome.NOT_IP: 1, Outcome.NETWORK_MALFORMED: 1}


def test_silence_ends_flows_when_there_is_a_clock() -> None:
    batches = [batch_of(FRAMES[:1]), PacketBatch.empty(), PacketBatch.empty()]
    ticks = iter([60 * 10**9, 122 * 10**9])
    flows = list(read_flows(batches, FlowMeter(), clock_ns=lambda: next(ticks), finish=False))
    assert [EndReason(r) for f in flows for r in f.flow["end_reason"]] == [EndReason.IDLE]


def test_lines_of_json_end_with_the_counts() -> None:
    file = pcap([*FRAMES, ethernet(ipv4(tcp(b"x"), 6))])[:-3]
    first, last = map(json.loads, flow_lines(open_capture(io.BytesIO(file)), as_json=True))
    assert first == {
        "source": "192.0.2.1",
        "source_port": 1000,
        "destination": "192.0.2.2",
        "destination_port": 53,
        "protocol": "udp",
        "start": 0.0,
        "end": 0.0,
        "packets_out": 1,
        "packets_in": 0,
        "bytes_out": 36,
        "bytes_in": 0,
        "end_reason": "capture_end",
    }
    assert last == {
        "packets": 3,
        "flows": 1,
        "ended": {"capture_end": 1},
        "outcomes": {"flow": 1, "not_ip": 1, "network_malformed": 1},
        "damage": {"cut_short": 1},
    }


def test_lines_for_the_eye() -> None:
    lines = list(flow_lines(open_capture(io.BytesIO(pcap(FRAMES[:2])))))
    assert lines == [
        "udp   192.0.2.1:1000 > 192.0.2.2:53  1+0 packets  36+0 bytes  0.000 s  capture_end",
        "2 packets, 1 flows; ended: 1 capture_end; outcomes: 1 flow, 1 not_ip",
    ]
