import struct
from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.traffic.capture import PacketBatch
from feature_store.traffic.flows import FlowBatch, FlowSettings
from feature_store.traffic.flows.flow import PAYLOAD_BYTES
from feature_store.traffic.flows.reference import flows_reference
from feature_store.traffic.meter import FlowMeter
from feature_store.traffic.packets import PACKET, Outcome, PacketDecoder
from feature_store.traffic.packets.fragment_memory import CONTENT_BYTES
from feature_store.traffic.packets.reference import decode_for_flows_reference

from .conftest import batch_of, frames, gre, ipv4, ipv6, mutated_frames, tcp, udp

WHOLE = udp(bytes(range(64)) * 8, sport=9, dport=7)
FIRST = ipv4(WHOLE[:40], 17, identification=5, fragment=0x2000)
LATER = ipv4(WHOLE[40:], 17, identification=5, fragment=5)
FLOW, LOST = Outcome.FLOW, Outcome.FRAGMENT_WITHOUT_FIRST


def metered(batch: PacketBatch, *, size: int = 10**6) -> tuple[FlowBatch, Counter[Outcome]]:
    meter = FlowMeter()
    flows = [FlowBatch.empty(20)]
    for at in range(0, len(batch), size):
        flows += meter.add(batch[at : at + size])
        assert meter.outcomes.total() == min(at + size, len(batch))
    flows += meter.finish()
    assert meter.outcomes.total() == len(batch)
    return FlowBatch.concatenate(flows), meter.outcomes


def test_a_fragment_before_its_first_joins_the_flow_behind_it() -> None:
    batch = batch_of([LATER, FIRST, ipv4(WHOLE, 17)], link_type=101, times_s=[0, 2, 3])
    flows, outcomes = metered(batch)
    assert outcomes == {FLOW: 3}
    assert flows.flow["packets"].tolist() == [[3, 0]]
    assert flows.size[0, :4].tolist() == [len(FIRST), len(LATER), len(WHOLE) + 20, 0]
    assert flows.gap_ns[0, :4].tolist() == [0, 0, 10**9, 0]
    assert flows.raw[0, 1, 80:].tobytes() == WHOLE[40 : 40 + PAYLOAD_BYTES]
    assert CONTENT_BYTES == PAYLOAD_BYTES


def test_what_never_finds_its_first_is_counted() -> None:
    late = batch_of([LATER, FIRST], link_type=101, times_s=[0, 31])
    assert metered(late)[1] == {FLOW: 1, LOST: 1}
    assert metered(batch_of([LATER], link_type=101))[1] == {LOST: 1}
    broken = ipv4(b"\0", 6, identification=5, fragment=0x2000)
    later = ipv4(WHOLE[40:], 6, identification=5, fragment=5)
    batch = batch_of([later, broken], link_type=101)
    assert metered(batch)[1] == {LOST: 1, Outcome.TRANSPORT_MALFORMED: 1}


def test_more_than_there_is_room_for_push_out_the_oldest() -> None:
    laters = [ipv4(bytes(8), 17, identification=n, fragment=2) for n in range(5)]
    firsts = [ipv4(udp(), 17, identification=n, fragment=0x2000) for n in range(5)]
    decoder = PacketDecoder(fragments=3)
    _, packets = decoder.decode_for_flows(batch_of([*laters, *firsts], link_type=101))
    assert len(packets) == 13
    assert decoder.outcomes == {FLOW: 8, Outcome.FRAGMENT_WITHOUT_ROOM: 2}


def test_a_live_interface_gives_up_with_time() -> None:
    meter = FlowMeter()
    list(meter.add(batch_of([LATER], link_type=101)))
    list(meter.advance(29 * 10**9))
    assert meter.outcomes == {Outcome.FRAGMENT_WAITS: 1}
    list(meter.advance(31 * 10**9))
    assert meter.outcomes == {LOST: 1}


def test_headers_too_long_to_keep_are_not_held() -> None:
    later = ipv6(bytes([44, 49]) + bytes(398) + struct.pack(">BBHI", 17, 0, 40, 7) + bytes(8), 60)
    assert metered(batch_of([later], link_type=101))[1] == {LOST: 1}


def datagrams() -> st.SearchStrategy[list[bytes]]:
    """The fragments of one datagram, the first of them first."""

    @st.composite
    def cut(draw: st.DrawFn) -> list[bytes]:
        host, identification = draw(st.sampled_from("345")), draw(st.integers(0, 2**16 - 1))
        content, protocol = draw(
            st.sampled_from(
                [
                    (udp(bytes(120), sport=9), 17),
                    (tcp(bytes(120)), 6),
                    (gre(ipv4(udp(bytes(120)), 17, src="10.0.0.1")), 47),
                ]
            )
        )
        at = [0, 64, *sorted(draw(st.sets(st.sampled_from([72, 80, 96]))))]
        pieces = zip(at, [*at[1:], len(content)], strict=True)
        found = []
        for begin, end in pieces:
            more = end < len(content)
            if host == "5":
                offset = begin | more
                head = struct.pack(">BBHI", protocol, 0, offset, identification)
                found.append(ipv6(head + content[begin:end], 44))
            else:
                field = 0x2000 * more | begin // 8
                found.append(
                    ipv4(
                        content[begin:end], protocol, src=f"192.0.2.{host}",
                        identification=identification, fragment=field,
                    )
                )  # fmt: skip
        return found

    return cut()


@settings(max_examples=150, deadline=None)
@given(st.lists(datagrams(), min_size=1, max_size=6), st.integers(1, 9), st.data())
def test_shuffled_fragments_give_the_flows_of_those_in_order(
    found: list[list[bytes]], size: int, data: st.DataObject
) -> None:
    in_order = [fragment for datagram in found for fragment in datagram]
    keys = {(d[0][12:40] if d[0][0] >> 4 == 6 else d[0][4:6] + d[0][12:20]) for d in found}
    if len(keys) < len(found):
        return  # two datagrams of one number may be told apart by their order alone
    shuffled = data.draw(st.permutations(in_order))
    expected, got = (
        metered(batch_of(packets, link_type=101), size=size) for packets in (in_order, shuffled)
    )
    assert got[1] == expected[1] == {FLOW: len(in_order)}
    assert totals(got[0]) == totals(expected[0])


def totals(flows: FlowBatch) -> set[tuple[object, ...]]:
    """What each flow is and how much it carried, whatever the order of its packets."""
    names = ("src_hi", "src_lo", "dst_hi", "dst_lo", "src_port", "dst_port", "protocol")
    return {
        (*(flow[name].item() for name in names), *flow["packets"], *flow["bytes"])
        for flow in flows.flow
    }


mixed = st.lists(
    st.one_of(frames(), mutated_frames(), datagrams().flatmap(st.sampled_from)),
    min_size=1,
    max_size=14,
)
steps_s = st.sampled_from([0.0, 0.0, 1.0, 20.0, 31.0, 70.0])


@settings(max_examples=200, deadline=None)
@given(mixed, st.integers(1, 14), st.integers(1, 5), st.data())
def test_held_fragments_equal_the_reference_in_any_chunks(
    packets: list[bytes], size: int, room: int, data: st.DataObject
) -> None:
    gaps = data.draw(st.lists(steps_s, min_size=len(packets), max_size=len(packets)))
    batch = batch_of(packets, times_s=np.cumsum(gaps).tolist())
    batch.link_type[[packet[:1] in (b"\x45", b"\x60") for packet in packets]] = 101
    reference, expected, outcomes = decode_for_flows_reference(batch, fragments=room)
    decoder = PacketDecoder(fragments=room)
    parts = [
        decoder.decode_for_flows(batch[at : at + size]) for at in range(0, len(batch), size)
    ]  # fmt: skip
    rows = np.concatenate([rows for _, rows in parts])
    for name in PACKET.names or ():
        np.testing.assert_array_equal(rows[name], expected[name], err_msg=name)
    decoder.give_up()
    assert decoder.outcomes == outcomes
    joined = PacketBatch.concatenate([part for part, _ in parts])
    np.testing.assert_array_equal(joined.timestamp_ns, reference.timestamp_ns)
    table = FlowSettings()
    held, whole = flows_reference(joined, rows, table), flows_reference(reference, expected, table)
    for a, b in zip(held.columns(), whole.columns(), strict=True):
        np.testing.assert_array_equal(a, b)
