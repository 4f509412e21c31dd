"""One flow as bytes, without who talked: what a later version can read again.

An address becomes a keyed hash: flows of one pair of ends still belong together, which a split of
the next training asks for, and nobody without the key can say whose they were.

header   b"FL2", packets kept (uint8), M (uint8), packets with bytes (uint8)
body     the row of `FLOW` with hashed addresses, then sizes, directions, gaps and header
         fields of the kept packets, then bytes of the first ones where they are kept
"""

from __future__ import annotations

import struct
from hashlib import blake2b

import numpy as np

from feature_store.traffic.flows.fields import HEADER_FIELDS
from feature_store.traffic.flows.flow import FLOW, RAW_BYTES, RAW_PACKETS, FlowBatch

_HEADER = struct.Struct("<3sBBB")
_MAGIC = b"FL2"
_ENDS = (("src_hi", "src_lo"), ("dst_hi", "dst_lo"))


def pack_flow(flow: FlowBatch, packets: int, *, raw: bool = False, key: bytes = b"") -> bytes:
    """A batch of one flow, as it was after so many packets.

    Args:
        flow: one flow. packets: how many of its packets count.
        raw: whether the packets' bytes are kept, headers with addresses among them.
        key: of the hashes, a secret of at most 64 bytes.
    """
    kept = min(int(flow.flow["kept"][0]), packets)
    row = flow.flow.copy()
    row["kept"] = kept
    for high, low in _ENDS:
        address = row[high].tobytes() + row[low].tobytes()
        row[high] = 0
        row[low] = int.from_bytes(blake2b(address, key=key, digest_size=8).digest(), "little")
    row["src_mac"] = row["dst_mac"] = 0
    with_bytes = min(kept, RAW_PACKETS) if raw else 0
    parts = [
        _HEADER.pack(_MAGIC, kept, flow.size.shape[1], with_bytes),
        row.tobytes(),
        flow.size[0, :kept].tobytes(),
        flow.direction[0, :kept].tobytes(),
        flow.gap_ns[0, :kept].tobytes(),
        flow.fields[0, :kept].tobytes(),
        flow.raw[0, :with_bytes].tobytes(),
        flow.header_length[0, :with_bytes].tobytes(),
    ]
    return b"".join(parts)


def unpack_flows(packed: list[bytes], packets: int) -> FlowBatch:
    """The flows in one batch, with room for `packets` of each.

    Raises:
        ValueError: bytes that are no flow.
    """
    batch = FlowBatch.empty(packets)
    n = len(packed)
    flow, size = np.zeros(n, FLOW), np.zeros((n, packets), np.int32)
    direction, gap_ns = np.zeros((n, packets), np.int8), np.zeros((n, packets), np.int64)
    fields = np.zeros((n, packets, len(HEADER_FIELDS)), np.uint16)
    raw = np.zeros((n, *batch.raw.shape[1:]), np.uint8)
    header_length = np.zeros((n, *batch.header_length.shape[1:]), np.uint8)
    for place, each in enumerate(packed):
        magic, kept, _, with_bytes = _HEADER.unpack_from(each)
        if magic != _MAGIC:
            raise ValueError(f"a packed flow begins with {_MAGIC!r}, not {magic!r}")
        at = _HEADER.size
        room = min(kept, packets)
        flow[place] = np.frombuffer(each, FLOW, 1, at)[0]
        flow[place]["kept"] = room
        at += FLOW.itemsize
        size[place, :room] = np.frombuffer(each, np.int32, kept, at)[:room]
        at += 4 * kept
        direction[place, :room] = np.frombuffer(each, np.int8, kept, at)[:room]
        at += kept
        gap_ns[place, :room] = np.frombuffer(each, np.int64, kept, at)[:room]
        at += 8 * kept
        width = len(HEADER_FIELDS)
        told = np.frombuffer(each, np.uint16, kept * width, at).reshape(kept, width)
        fields[place, :room] = told[:room]
        at += 2 * kept * width
        octets = np.frombuffer(each, np.uint8, with_bytes * RAW_BYTES, at)
        raw[place, :with_bytes] = octets.reshape(with_bytes, RAW_BYTES)
        at += with_bytes * RAW_BYTES
        lengths = np.frombuffer(each, np.uint8, with_bytes * 2, at)
        header_length[place, :with_bytes] = lengths.reshape(with_bytes, 2)
    return FlowBatch(flow, size, direction, gap_ns, fields, raw, header_length)
