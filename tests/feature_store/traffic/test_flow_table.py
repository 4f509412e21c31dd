import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.traffic.capture import PacketBatch
from feature_store.traffic.flows import EndReason, FlowBatch, FlowSettings, FlowTable
from feature_store.traffic.flows.reference import flows_reference
from feature_store.traffic.packets import PacketDecoder

from .conftest import ACK, FIN, PSH, RST, SYN, batch_of, frames, ipv4, tcp, udp

A, B = "192.0.2.1", "192.0.2.2"


def out(flags: int = ACK, payload: bytes = b"", sport: int = 1000) -> bytes:
    return ipv4(tcp(payload, flags=flags, sport=sport), 6, src=A, dst=B)


def back(flags: int = ACK, payload: bytes = b"", sport: int = 1000) -> bytes:
    return ipv4(tcp(payload, flags=flags, sport=80, dport=sport), 6, src=B, dst=A)


def flows_of(
    batch: PacketBatch, settings: FlowSettings | None = None, *, size: int = 10**6
) -> FlowBatch:
    table, decoder = FlowTable(settings), PacketDecoder()
    done = [FlowBatch.empty(table.settings.kept_packets)]
    for at in range(0, len(batch), size):
        part = batch[at : at + size]
        done += table.add(part, decoder.decode(part))
    done += table.finish()
    assert len(table) == 0
    return FlowBatch.concatenate(done)


def reasons(flows: FlowBatch) -> list[EndReason]:
    return [EndReason(reason) for reason in flows.flow["end_reason"]]


HANDSHAKE = [out(SYN), back(SYN | ACK), out()]
GOODBYE = [out(FIN | ACK), back(FIN | ACK), out()]


def test_both_directions_are_one_flow_from_its_first_packet() -> None:
    batch = batch_of([*HANDSHAKE, back(PSH | ACK, b"x" * 100)], link_type=101, times_s=[0, 1, 1, 3])
    flows = flows_of(batch)
    assert len(flows) == 1
    assert flows.flow["src_port"][0] == 1000
    assert flows.flow["packets"][0].tolist() == [2, 2]
    assert flows.flow["bytes"][0].tolist() == [80, 180]
    assert flows.direction[0, :5].tolist() == [1, -1, 1, -1, 0]
    assert flows.size[0, :5].tolist() == [40, 40, 40, 140, 0]
    assert flows.gap_ns[0, :5].tolist() == [0, 10**9, 0, 2 * 10**9, 0]
    assert flows.raw[0, 3, 80:180].tobytes() == b"x" * 100
    assert flows.header_length[0, 3].tolist() == [20, 40]


def test_a_finished_connection_makes_room_for_the_next_on_the_same_ports() -> None:
    batch = batch_of([*HANDSHAKE, *GOODBYE, *HANDSHAKE], link_type=101)
    flows = flows_of(batch)
    assert reasons(flows) == [EndReason.FIN, EndReason.CAPTURE_END]
    assert flows.flow["packets"].sum(axis=1).tolist() == [6, 3]


def test_last_packets_after_a_reset_belong_to_the_flow() -> None:
    batch = batch_of([*HANDSHAKE, back(RST), out(), out()], link_type=101)
    flows = flows_of(batch)
    assert reasons(flows) == [EndReason.RST]
    assert flows.flow["packets"].sum() == 6


def test_idle_active_and_linger_timeouts_in_capture_time() -> None:
    idle = batch_of([out(), out(), out()], link_type=101, times_s=[0, 120, 240.5])
    assert reasons(flows_of(idle)) == [EndReason.IDLE, EndReason.CAPTURE_END]
    busy = batch_of([out()] * 40, link_type=101, times_s=[50.0 * n for n in range(40)])
    assert reasons(flows_of(busy)) == [EndReason.ACTIVE, EndReason.CAPTURE_END]
    late = batch_of([out(RST), out(), out()], link_type=101, times_s=[0, 5, 11])
    assert reasons(flows_of(late)) == [EndReason.RST, EndReason.CAPTURE_END]


def test_a_clock_that_jumps_back_begins_another_flow() -> None:
    batch = batch_of([out(), out(), out()], link_type=101, times_s=[1000, 999, 10])
    flows = flows_of(batch)
    assert flows.flow["packets"].sum(axis=1).tolist() == [2, 1]
    assert (flows.gap_ns >= 0).all()


def test_memory_is_bounded_and_eviction_is_counted() -> None:
    packets = [out(sport=n) for n in (1, 2, 3, 1, 4, 5)]
    table, batch = FlowTable(FlowSettings(max_flows=3)), batch_of(packets, link_type=101)
    evicted = FlowBatch.concatenate(list(table.add(batch, PacketDecoder().decode(batch))))
    assert evicted.flow["src_port"].tolist() == [2, 3]
    assert table.ended == {EndReason.EVICTED: 2}
    assert len(table) == 3


def test_more_flows_than_are_read_at_once() -> None:
    many = [ipv4(udp(sport=n), 17) for n in range(1, 5001)]
    late = [ipv4(udp(sport=9000), 17)]
    times = [n / 1e6 for n in range(5000)] + [1000.0]
    flows = flows_of(batch_of(many + late, link_type=101, times_s=times))
    assert flows.flow["number"].tolist() == list(range(5001))


def test_time_that_passes_without_packets_ends_flows() -> None:
    table, batch = FlowTable(), batch_of([out(), out(sport=5)], link_type=101, times_s=[0, 60])
    assert list(table.add(batch, PacketDecoder().decode(batch))) == []
    (ended,) = table.advance(130 * 10**9)
    assert ended.flow["src_port"].tolist() == [1000]
    assert len(table) == 1


def test_touched_flows_are_what_an_early_verdict_needs() -> None:
    table, decoder = FlowTable(FlowSettings(kept_packets=2)), PacketDecoder()
    seen = []
    for packet in [out(), out(sport=5), out(), out(), out(sport=5, flags=RST)]:
        batch = batch_of([packet], link_type=101)
        list(table.add(batch, decoder.decode(batch)))
        seen.append([(int(f["number"]), int(f["kept"])) for f in table.touched().flow])
    assert seen == [[(0, 1)], [(1, 1)], [(0, 2)], [], [(1, 2)]]


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"idle 0"):
        FlowSettings(idle_s=0)
    with pytest.raises(ValueError, match=r"max_flows.*0"):
        FlowSettings(max_flows=0)


tables = st.sampled_from(
    [
        FlowSettings(),
        FlowSettings(idle_s=2, active_s=6, linger_s=1, max_flows=2, kept_packets=3),
        FlowSettings(idle_s=1, active_s=3, linger_s=0, max_flows=5, kept_packets=7),
    ]
)
gaps = st.sampled_from([0, 0, 0.1, 0.5, 1, 2.5, -0.5, -4])


@settings(max_examples=150, deadline=None)
@given(st.data(), tables, st.integers(1, 12))
def test_the_table_equals_its_reference_in_any_chunks(
    data: st.DataObject, table: FlowSettings, size: int
) -> None:
    pool = [out(f) for f in (SYN, ACK, FIN | ACK, RST)] + [back(f) for f in (ACK, FIN | ACK)]
    pool += [out(sport=5), out(sport=6), out(sport=7), *data.draw(st.lists(frames(), max_size=4))]
    chosen = data.draw(st.lists(st.tuples(st.sampled_from(pool), gaps), min_size=1, max_size=30))
    times = np.cumsum([gap for _, gap in chosen]) + 100
    batch = batch_of([packet for packet, _ in chosen], link_type=101, times_s=times.tolist())
    batch.link_type[[packet[0] == 2 for packet, _ in chosen]] = 1
    expected = flows_reference(batch, PacketDecoder().decode(batch), table)
    assert_flows_equal(flows_of(batch, table, size=size), expected)


def assert_flows_equal(got: FlowBatch, expected: FlowBatch) -> None:
    for name, a, b in zip(FlowBatch.__slots__, got.columns(), expected.columns(), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)
