"""The steps of the decoder's walk, and reading numbers from packets.

A step is the number of the layer that comes next, or, negatively, the outcome that ends the walk.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled, int64
from feature_store.traffic.packets.outcome import Outcome

FLOW, NOT_IP = -int(Outcome.FLOW), -int(Outcome.NOT_IP)
LINK_UNSUPPORTED = -int(Outcome.LINK_UNSUPPORTED)
# Of each pair the first is for a header that the capture cut, the second for one that is wrong.
LINK_TRUNCATED, LINK_MALFORMED = -int(Outcome.LINK_TRUNCATED), -int(Outcome.LINK_MALFORMED)
NETWORK_TRUNCATED = -int(Outcome.NETWORK_TRUNCATED)
NETWORK_MALFORMED = -int(Outcome.NETWORK_MALFORMED)
TRANSPORT_TRUNCATED = -int(Outcome.TRANSPORT_TRUNCATED)
TRANSPORT_MALFORMED = -int(Outcome.TRANSPORT_MALFORMED)
FRAGMENT_WITHOUT_FIRST = -int(Outcome.FRAGMENT_WITHOUT_FIRST)
FRAGMENT_WAITS = -int(Outcome.FRAGMENT_WAITS)
TOO_DEEP = -int(Outcome.TOO_DEEP)

# The layers of the walk.
ETHERNET, VLAN, MPLS, PPPOE, PPP, LLC, LOOPBACK, COOKED, COOKED_2 = range(9)
IP, IPV4, IPV6, TRANSPORT, GRE, ERSPAN_2, ERSPAN_3 = range(9, 16)


@compiled
def link_fault(needed: int, end: int) -> int:
    """Why bytes up to `needed` are not there in a packet that ends at `end`."""
    return LINK_MALFORMED if needed > end else LINK_TRUNCATED


@compiled
def network_fault(needed: int, end: int) -> int:
    """See `link_fault`."""
    return NETWORK_MALFORMED if needed > end else NETWORK_TRUNCATED


@compiled
def transport_fault(needed: int, end: int) -> int:
    """See `link_fault`."""
    return TRANSPORT_MALFORMED if needed > end else TRANSPORT_TRUNCATED


@compiled
def u16(data: NDArray[np.uint8], at: int) -> int:
    """Two bytes in network order, unchecked."""
    return (int64(data[at]) << 8) | int64(data[at + 1])


@compiled
def u32(data: NDArray[np.uint8], at: int) -> int:
    """Four bytes in network order, unchecked."""
    return (u16(data, at) << 16) | u16(data, at + 2)


@compiled
def u64(data: NDArray[np.uint8], at: int) -> np.uint64:
    """Eight bytes in network order, unchecked."""
    return (np.uint64(u32(data, at)) << np.uint64(32)) | np.uint64(u32(data, at + 4))
