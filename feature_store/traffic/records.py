"""Flows as bytes that one process writes and another reads: an Arrow IPC stream of columns.

Arrow, because the flow table's columns are the network's columns: neither side makes an object a
flow, and any Arrow library reads a record. 128 flows of 20 packets are about 60 kB, lz4; packets'
bytes are there when asked for and make it three times that. Ethernet addresses, which are for
labels only, stay behind.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.traffic.flows.fields import HEADER_FIELDS
from feature_store.traffic.flows.flow import FLOW, RAW_BYTES, RAW_PACKETS, FlowBatch

ID_BYTES = 16
_MAX_PACKETS = 1_024
_LEFT_BEHIND = {"src_mac", "dst_mac"}
_PAIRS = ("packets", "bytes")
_SCALARS = [name for name in FLOW.names or () if name not in _LEFT_BEHIND | set(_PAIRS)]


class FlowRecordError(ValueError):
    """The bytes are no flows."""


@dataclass(frozen=True, slots=True)
class FlowRecords:
    """n flows as they were read.

    Attributes:
        ids: n of 16 bytes: the same flow has the same id whoever sends it, however often.
        flows: without Ethernet addresses, and without packets' bytes unless `has_bytes`.
    """

    ids: list[bytes]
    flows: FlowBatch
    has_bytes: bool

    def __len__(self) -> int:
        return len(self.ids)


def flow_ids(flows: FlowBatch) -> list[bytes]:
    """A hash of each flow's 5-tuple, first packet's time, and number in its table."""
    rows = np.zeros(len(flows), _IDENTITY)
    for name in _IDENTITY.names or ():
        rows[name] = flows.flow[name]
    raw, size = rows.tobytes(), _IDENTITY.itemsize
    return [
        hashlib.blake2b(raw[begin : begin + size], digest_size=ID_BYTES).digest()
        for begin in range(0, len(raw), size)
    ]


_IDENTITY = np.dtype(
    [
        (name, FLOW[name].newbyteorder("<"))
        for name in (
            *("src_hi", "src_lo", "dst_hi", "dst_lo", "src_port", "dst_port", "protocol"),
            *("first_ns", "number"),
        )
    ]
)


def flow_partitions(flows: FlowBatch, partitions: int) -> NDArray[np.int64]:
    """(n,) the partition of each 5-tuple, the same for both directions."""
    flow = flows.flow
    ends = [
        _mixed(flow[f"{end}_hi"] + _mixed(flow[f"{end}_lo"] + _mixed(flow[f"{end}_port"])))
        for end in ("src", "dst")
    ]
    key = _mixed(ends[0] + ends[1] + flow["protocol"].astype(np.uint64))
    return (key % np.uint64(partitions)).astype(np.int64)


def _mixed(values: NDArray[Any]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser."""
    x = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed


def encode_flows(flows: FlowBatch, *, with_bytes: bool = False) -> bytes:
    """An Arrow IPC stream of flows; `with_bytes` for models that read packets' bytes."""
    n, packets = flows.size.shape
    columns: dict[str, Any] = {"flow_id": pl.Series(flow_ids(flows), dtype=pl.Binary)}
    columns |= {name: flows.flow[name] for name in _SCALARS}
    for name in _PAIRS:
        columns[f"{name}_out"] = flows.flow[name][:, 0]
        columns[f"{name}_in"] = flows.flow[name][:, 1]
    columns |= {"size": flows.size, "direction": flows.direction, "gap_ns": flows.gap_ns}
    columns["fields"] = flows.fields.reshape(n, packets * len(HEADER_FIELDS))
    if with_bytes:
        columns["raw"] = flows.raw.reshape(n, RAW_PACKETS * RAW_BYTES)
        columns["header_length"] = flows.header_length.reshape(n, RAW_PACKETS * 2)
    stream = io.BytesIO()
    pl.DataFrame(columns).write_ipc_stream(stream, compression="lz4")
    return stream.getvalue()


def decode_flows(payload: bytes) -> FlowRecords:
    """What `encode_flows` wrote.

    Raises:
        FlowRecordError: the bytes are no Arrow stream, or not of flows.
    """
    try:
        table = pl.read_ipc_stream(io.BytesIO(payload))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FlowRecordError(f"no Arrow stream: {error}") from error
    packets = _packets(table)
    has_bytes = "raw" in table.columns
    n = table.height
    flow = np.zeros(n, FLOW)
    for name in _SCALARS:
        flow[name] = _column(table, name, FLOW[name])
    for name in _PAIRS:
        for place, end in enumerate(("out", "in")):
            flow[name][:, place] = _column(table, f"{name}_{end}", np.dtype("i8"))
    if n and not 1 <= flow["kept"].min() <= flow["kept"].max() <= packets:
        raise FlowRecordError(f"`kept` is not within 1 and {packets}")
    ids = table["flow_id"] if "flow_id" in table.columns else pl.Series([None] * n)
    if ids.dtype != pl.Binary or ids.null_count() or not (ids.bin.size() == ID_BYTES).all():
        raise FlowRecordError(f"`flow_id` is not {ID_BYTES} bytes a flow")
    fields = len(HEADER_FIELDS)
    raw = np.zeros((n, RAW_PACKETS, RAW_BYTES), np.uint8)
    header_length = np.zeros((n, RAW_PACKETS, 2), np.uint8)
    if has_bytes:
        raw = _column(table, "raw", raw.dtype, RAW_PACKETS * RAW_BYTES).reshape(raw.shape)
        lengths = _column(table, "header_length", header_length.dtype, RAW_PACKETS * 2)
        header_length = lengths.reshape(header_length.shape)
    flows = FlowBatch(
        flow=flow,
        size=_column(table, "size", np.dtype(np.int32), packets),
        direction=_column(table, "direction", np.dtype(np.int8), packets),
        gap_ns=_column(table, "gap_ns", np.dtype(np.int64), packets),
        fields=_column(table, "fields", np.dtype(np.uint16), packets * fields).reshape(
            n, packets, fields
        ),
        raw=raw,
        header_length=header_length,
    )
    return FlowRecords(ids.to_list(), flows, has_bytes)


def _packets(table: pl.DataFrame) -> int:
    kind = table.schema.get("size")
    if not isinstance(kind, pl.Array) or not 1 <= kind.size <= _MAX_PACKETS:
        raise FlowRecordError("there is no column `size` of the first packets' sizes")
    return kind.size


def _column(table: pl.DataFrame, name: str, dtype: np.dtype[Any], width: int = 0) -> NDArray[Any]:
    """One column as an array (n,) or (n, width) of exactly this type."""
    shape = (table.height, width) if width else (table.height,)
    found = table[name].to_numpy() if name in table.columns else np.zeros(0)
    if found.dtype != dtype or found.shape != shape:
        raise FlowRecordError(
            f"column `{name}` is not {dtype} {shape}, but {found.dtype} {found.shape}"
        )
    return found
