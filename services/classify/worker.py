"""One of many workers that classify the flows of a queue.

Read, classify, commit, acknowledge, in this order: a worker that dies in between leaves its
messages to another one, and the ledger lets no flow have two verdicts.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import redis

from feature_store.queues import Delivery, Lag, QueueReader, QueueUnavailableError
from feature_store.traffic.features import Tier
from feature_store.traffic.records import FlowRecordError, FlowRecords, decode_flows
from services.classify.correction import Corrector, Uncorrected
from services.classify.counts import StreamCounts
from services.classify.ledger import VerdictLedger
from services.classify.reader import FlowReader
from services.classify.stream import ServedEdition
from services.classify.verdict import FlowName, Reason, Verdict

log = logging.getLogger(__name__)

READ_S = 0.5
RETRY_S = 0.5
LAG_EVERY_S = 2.0


class Message(StrEnum):
    """What became of a message."""

    DONE = "done"
    REJECTED = "rejected"  # no flows could be read from it; it is acknowledged


@dataclass
class WorkerCounts:
    """Counted since the worker began.

    Attributes:
        stream: flows, verdicts, and latency: from when a flow's message was written to its verdict.
        duplicates: flows that had a verdict already.
        again: messages that another worker, or this one, had not acknowledged.
        lag: of the queue, when it was last asked for; None before.
        turned_at: when the worker last came round to its queue, by `time.monotonic`.
    """

    stream: StreamCounts = field(default_factory=StreamCounts)
    messages: Counter[Message] = field(default_factory=Counter)
    duplicates: int = 0
    again: int = 0
    lag: Lag | None = None
    turned_at: float = field(default_factory=time.monotonic)

    def to_json(self) -> dict[str, Any]:
        """For the last line of a report."""
        stream = self.stream.to_json()
        del stream["shed"], stream["evicted"]  # a queue waits, and its flows have ended elsewhere
        return {
            **stream,
            "duplicates": self.duplicates,
            "messages": {str(each): self.messages[each] for each in Message},
            "delivered_again": self.again,
            "lag": None if self.lag is None else {"waiting": self.lag.waiting,
                                                  "taken": self.lag.taken},
        }  # fmt: skip


class FlowWorker:
    """Classifies what a queue delivers until it is told to stop.

    Args:
        ledger: takes the verdicts.
        corrector: stands between the edition and every verdict.
        drain: stop when the queue has nothing that waits or that others work on.
        stop: stop after the messages in hand are done.

    Attributes:
        counts: what was done.
    """

    def __init__(
        self,
        served: ServedEdition,
        reader: QueueReader,
        ledger: VerdictLedger,
        *,
        corrector: Corrector | None = None,
        drain: bool = False,
        stop: Callable[[], bool] = lambda: False,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.counts = WorkerCounts()
        self._served = served
        self._queue = reader
        self._ledger = ledger
        self._corrector = corrector or Uncorrected(served.edition.classes)
        self._reader = FlowReader(served.edition, self._corrector, states=1)
        self._drain = drain
        self._stop = stop
        self._monotonic = monotonic
        self._sleep = sleep
        self._lag_at = 0.0

    def run(self) -> Iterator[list[Verdict]]:
        """Verdicts as they are committed; an empty list while nothing comes.

        Raises:
            ValueError: the edition reads packets' bytes, and sensors do not send them.
        """
        while not self._stop():
            self.counts.turned_at = self._monotonic()
            try:
                deliveries = self._queue.read(timeout_s=READ_S)
                self._look_at_lag(idle=not deliveries)
            except QueueUnavailableError as error:
                log.warning("%s; asking again", error)
                self._sleep(RETRY_S)
                continue
            if deliveries:
                yield self._handle(deliveries)
            elif self._drain and self.counts.lag == Lag(0, 0):
                return
            else:
                yield []

    def _handle(self, deliveries: list[Delivery]) -> list[Verdict]:
        self.counts.again += sum(each.again for each in deliveries)
        verdicts, written_ms = [], []
        for delivery in deliveries:
            found = self._classified(delivery)
            verdicts += found
            written_ms += [delivery.written_ms] * len(found)
        fresh = self._committed(verdicts)
        if fresh is None:  # told to stop while Redis was gone: others will do it
            return []
        self.counts.stream.flows += len(fresh)
        self.counts.duplicates += len(verdicts) - len(fresh)
        ages = dict(zip((each.prediction_id for each in verdicts), written_ms, strict=True))
        now_ms = time.time_ns() // 1_000_000
        for verdict in fresh:
            age_ms = max(now_ms - ages[verdict.prediction_id], 0)
            self.counts.stream.add(verdict, age_ms * 1_000_000)
        try:
            self._queue.acknowledge(deliveries)
        except QueueUnavailableError as error:
            log.warning("%s; the messages come again, and are known", error)
        return fresh

    def _classified(self, delivery: Delivery) -> list[Verdict]:
        try:
            records = decode_flows(delivery.payload)
        except FlowRecordError as error:
            self.counts.messages[Message.REJECTED] += 1
            log.error("message %s of partition %d was left out: %s",
                      delivery.position, delivery.partition, error)  # fmt: skip
            return []
        self.counts.messages[Message.DONE] += 1
        if self._served.edition.tier is Tier.T2 and not records.has_bytes:
            raise ValueError(
                f"version {self._served.version} reads packets' bytes, and the flows come without: "
                "publish them with `errata flows --with-bytes`"
            )
        return self._verdicts(records) if len(records) else []

    def _verdicts(self, records: FlowRecords) -> list[Verdict]:
        edition = self._served.edition
        limit = min(edition.packets, records.flows.size.shape[1])
        flows = records.flows.cut(limit)
        kept = flows.flow["kept"].astype(np.int64)
        opinions = self._reader.whole(flows, kept)
        labels = edition.names(opinions.probability, self._corrector.classes)
        last_kept_ns = flows.flow["first_ns"] + flows.gap_ns.sum(axis=1)
        found = []
        for row, id_ in enumerate(records.ids):
            flow, probability = flows.flow[row], opinions.probability[row]
            best, at_limit = int(probability.argmax()), kept[row] == edition.packets
            found.append(
                Verdict(
                    prediction_id=id_.hex(),
                    model_version=self._served.version,
                    flow=FlowName.of(flow),
                    packet=int(kept[row]),
                    time_ns=int(last_kept_ns[row] if at_limit else flow["last_ns"]),
                    label=labels[row],
                    guess=self._corrector.classes[best],
                    confidence=float(probability[best]),
                    reason=Reason.PACKET_LIMIT if at_limit else Reason.FLOW_END,
                    probability=probability,
                    own=opinions.own[row],
                    hidden=opinions.hidden[row],
                )
            )
        return found

    def _committed(self, verdicts: list[Verdict]) -> list[Verdict] | None:
        """Until Redis has them; None when told to stop before it did."""
        while True:
            try:
                return self._ledger.commit(verdicts)
            except redis.RedisError as error:
                if self._stop():
                    return None
                self.counts.turned_at = self._monotonic()  # it waits, and is well
                log.warning("verdicts wait for Redis: %s", error)
                self._sleep(RETRY_S)

    def _look_at_lag(self, *, idle: bool) -> None:
        if self._monotonic() >= self._lag_at or (idle and self._drain):
            self.counts.lag = self._queue.lag()
            self._lag_at = self._monotonic() + LAG_EVERY_S
