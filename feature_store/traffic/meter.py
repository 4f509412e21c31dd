"""From packets to finished flows: the one way for training, for files and for live traffic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.flows.flow import FlowBatch
from feature_store.traffic.flows.table import FlowSettings, FlowTable
from feature_store.traffic.packets.decoder import PacketDecoder
from feature_store.traffic.packets.held_fragments import HOLD_NS
from feature_store.traffic.packets.outcome import Outcome

# The kernel hands packets over within a fraction of this.
LIVE_SLACK_NS = 1_000_000_000


class FlowMeter:
    """Decodes packets, assigns them to flows and counts what became of them.

    The iterators do the work as they are read: read each to its end before the next call.

    Attributes:
        table: the live flows, and the finished ones by reason.
    """

    def __init__(self, settings: FlowSettings | None = None) -> None:
        self.table = FlowTable(settings)
        self._decoder = PacketDecoder()

    @property
    def outcomes(self) -> Counter[Outcome]:
        """Packets by outcome; their sum is the number of packets taken."""
        return self._decoder.outcomes

    def add(self, batch: PacketBatch) -> Iterator[FlowBatch]:
        """Take packets; give the flows that ended meanwhile."""
        yield from self.table.add(*self._decoder.decode_for_flows(batch))

    def advance(self, now_ns: int) -> Iterator[FlowBatch]:
        """Say that no older packet is to come; give the flows that thereby ended."""
        self._decoder.give_up(now_ns - HOLD_NS)
        yield from self.table.advance(now_ns)

    def finish(self) -> Iterator[FlowBatch]:
        """End and give all flows that are left."""
        self._decoder.give_up()
        yield from self.table.finish()


def read_flows(
    packets: Iterable[PacketBatch],
    meter: FlowMeter,
    *,
    clock_ns: Callable[[], int] | None = None,
    finish: bool = True,
) -> Iterator[FlowBatch]:
    """All flows of a capture, in the order in which they end.

    Args:
        packets: a `Capture`, an `InterfaceCapture`, or batches from elsewhere.
        clock_ns: for a live interface, `time.time_ns`: silence there lets time pass too.
        finish: end what is left with the capture; False when the next file continues it.
    """
    for batch in packets:
        if len(batch):
            yield from meter.add(batch)
        elif clock_ns is not None:
            yield from meter.advance(clock_ns() - LIVE_SLACK_NS)
    if finish:
        yield from meter.finish()
