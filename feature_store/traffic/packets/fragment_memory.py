"""What decoding remembers of fragments, in two rings: first ones, and later ones that wait."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled
from feature_store.traffic.packets.packet import PACKET

# What all fragments of a datagram share (RFC 791 section 3.2, RFC 8200 section 4.5).
DATAGRAM = [
    ("src_hi", "u8"),
    ("src_lo", "u8"),
    ("dst_hi", "u8"),
    ("dst_lo", "u8"),
    ("identification", "u4"),
    ("protocol", "u1"),
]
# The flow that the first fragment of a datagram belongs to.
FRAGMENT = np.dtype(
    [
        *DATAGRAM,
        ("known", "u1"),  # the first fragment led to a flow
        ("timestamp_ns", "i8"),
        ("flow", PACKET),  # src … version are used
    ]
)
# A later fragment that came before its first.
HELD = np.dtype(
    [
        *DATAGRAM,
        ("waits", "u1"),
        ("captured", "i4"),  # bytes of it that are kept
        ("timestamp_ns", "i8"),
    ]
)
CONTENT_BYTES = 240  # as much as a flow keeps of a packet's payload
HELD_BYTES = 400 + CONTENT_BYTES  # headers, and what is looked at of the content

# Entries of `Fragments.state`: how many were written into each ring, how many wait, and how many
# there are in `released`; since the state was last read, those that stopped waiting; and the number
# of the datagram whose fragment is to wait.
FIRSTS, HOLDS, WAITING, RELEASED, JOINED, WITHOUT_FIRST, WITHOUT_ROOM, IDENTIFICATION = range(8)


class Fragments(NamedTuple):
    """The memory of a decoder, bounded by the sizes of its two rings."""

    firsts: NDArray[np.void]  # (F,) FRAGMENT
    held: NDArray[np.void]  # (H,) HELD
    held_packet: NDArray[np.void]  # (H,) PACKET
    held_octets: NDArray[np.uint8]  # (H, HELD_BYTES)
    released: NDArray[np.void]  # (H,) HELD, whose first has come: to be read
    released_packet: NDArray[np.void]  # (H,) PACKET
    released_octets: NDArray[np.uint8]  # (H, HELD_BYTES)
    released_behind: NDArray[np.int64]  # (H,) the packet of the batch that is their first
    state: NDArray[np.int64]  # (8,)


def new_fragments(firsts: int, held: int) -> Fragments:
    """An empty memory."""
    return Fragments(
        firsts=np.zeros(firsts, FRAGMENT),
        held=np.zeros(held, HELD),
        held_packet=np.zeros(held, PACKET),
        held_octets=np.zeros((held, HELD_BYTES), np.uint8),
        released=np.zeros(held, HELD),
        released_packet=np.zeros(held, PACKET),
        released_octets=np.zeros((held, HELD_BYTES), np.uint8),
        released_behind=np.zeros(held, np.int64),
        state=np.zeros(8, np.int64),
    )


@compiled
def copy_flow(source: np.void, target: np.void) -> None:
    """Copy what says which flow a packet belongs to."""
    target["src_hi"], target["src_lo"] = source["src_hi"], source["src_lo"]
    target["dst_hi"], target["dst_lo"] = source["dst_hi"], source["dst_lo"]
    target["src_port"], target["dst_port"] = source["src_port"], source["dst_port"]
    target["protocol"], target["version"] = source["protocol"], source["version"]
