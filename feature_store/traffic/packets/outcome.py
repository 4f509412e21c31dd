"""What became of a packet."""

from enum import IntEnum


class Outcome(IntEnum):
    """Every packet has one. A header is truncated when the capture did not keep all of it, and
    malformed when the packet itself cannot hold it or contradicts itself."""

    FLOW = 1  # it belongs to a flow
    NOT_IP = 2  # ARP, LLDP, spanning tree, ...
    LINK_UNSUPPORTED = 3  # a link type that we do not read, such as 802.11
    LINK_TRUNCATED = 4
    LINK_MALFORMED = 5
    NETWORK_TRUNCATED = 6
    NETWORK_MALFORMED = 7
    TRANSPORT_TRUNCATED = 8
    TRANSPORT_MALFORMED = 9
    FRAGMENT_WITHOUT_FIRST = 10  # a later fragment: the one with the ports did not come in time
    TOO_DEEP = 11  # more IP headers inside each other than `decoder.MAX_DEPTH`
    FRAGMENT_WAITS = 12  # a later fragment: the one with the ports may still come
    FRAGMENT_WITHOUT_ROOM = 13  # a later fragment: newer ones took its place before the first came
