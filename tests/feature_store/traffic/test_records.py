"""Flows that go from one process to another."""

import io

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.traffic.flows import FLOW, FlowBatch
from feature_store.traffic.records import (
    FlowRecordError,
    decode_flows,
    encode_flows,
    flow_ids,
    flow_partitions,
)

SEEDS = st.integers(0, 2**32 - 1)


def random_flows(rng: np.random.Generator, n: int, packets: int) -> FlowBatch:
    """Any bits in any column, as wide as its type."""
    empty = FlowBatch.empty(packets)
    columns = []
    for column in empty.columns():
        shape = (n, *column.shape[1:])
        size = n * int(np.prod(column.shape[1:])) * column.dtype.itemsize
        columns.append(np.frombuffer(rng.bytes(size), column.dtype).reshape(shape).copy())
    flows = FlowBatch(*columns)
    flows.flow["kept"] = rng.integers(1, packets + 1, n)
    return flows


@settings(max_examples=30)
@given(seed=SEEDS, n=st.integers(0, 5), packets=st.integers(1, 30), with_bytes=st.booleans())
def test_flows_come_out_as_they_went_in(seed: int, n: int, packets: int, with_bytes: bool) -> None:
    flows = random_flows(np.random.default_rng(seed), n, packets)
    records = decode_flows(encode_flows(flows, with_bytes=with_bytes))
    assert records.has_bytes == with_bytes
    assert records.ids == flow_ids(flows)
    for name in FLOW.names:
        stays = name.endswith("_mac")
        expected = np.zeros_like(flows.flow[name]) if stays else flows.flow[name]
        np.testing.assert_array_equal(records.flows.flow[name], expected)
    assert not np.any(records.flows.raw) or with_bytes
    sent = list(flows.columns())[1 : None if with_bytes else 5]
    for column, expected in zip(list(records.flows.columns())[1:], sent, strict=False):
        np.testing.assert_array_equal(column, expected)


@settings(max_examples=30)
@given(seed=SEEDS, partitions=st.integers(1, 64))
def test_both_directions_of_a_flow_go_to_one_partition(seed: int, partitions: int) -> None:
    there = random_flows(np.random.default_rng(seed), 20, 1)
    back = FlowBatch(*(column.copy() for column in there.columns()))
    for field in ("hi", "lo", "port"):
        back.flow[f"src_{field}"] = there.flow[f"dst_{field}"]
        back.flow[f"dst_{field}"] = there.flow[f"src_{field}"]
    back.flow["first_ns"] += 1
    places = flow_partitions(there, partitions)
    np.testing.assert_array_equal(places, flow_partitions(back, partitions))
    assert 0 <= places.min() <= places.max() < partitions
    assert not set(flow_ids(there)) & set(flow_ids(back))


def test_flows_spread_over_partitions() -> None:
    flows = random_flows(np.random.default_rng(0), 4_000, 1)
    flows.flow["src_hi"] = flows.flow["dst_hi"] = 0  # neighbours that differ in few bits
    flows.flow["src_lo"] = 0x0A000000 + np.arange(4_000) % 200
    flows.flow["dst_lo"], flows.flow["dst_port"], flows.flow["protocol"] = 0x0A0000FE, 443, 6
    counts = np.bincount(flow_partitions(flows, 8), minlength=8)
    assert counts.min() > 400


def test_a_column_that_somebody_adds_is_no_harm_and_one_that_lacks_is_named() -> None:
    flows = random_flows(np.random.default_rng(1), 3, 4)
    table = pl.read_ipc_stream(encode_flows(flows))
    assert len(decode_flows(stream(table.with_columns(sensor=pl.lit("tap-7"))))) == 3
    for column in ("kept", "flow_id", "size", "fields", "packets_out"):
        with pytest.raises(FlowRecordError, match=column):
            decode_flows(stream(table.drop(column)))
    with pytest.raises(FlowRecordError, match="kept"):
        decode_flows(stream(table.with_columns(kept=pl.lit(5, pl.Int32))))
    with pytest.raises(FlowRecordError, match="gap_ns"):
        decode_flows(stream(table.with_columns(gap_ns=pl.col("size"))))


@settings(max_examples=50)
@given(junk=st.binary(max_size=200))
def test_junk_is_refused(junk: bytes) -> None:
    with pytest.raises(FlowRecordError):
        decode_flows(junk)


def test_what_is_cut_short_is_refused() -> None:
    whole = encode_flows(random_flows(np.random.default_rng(2), 3, 4))
    for length in range(0, len(whole) - 64, 97):
        with pytest.raises(FlowRecordError):
            decode_flows(whole[:length])


def stream(table: pl.DataFrame) -> bytes:
    written = io.BytesIO()
    table.write_ipc_stream(written)
    return written.getvalue()
