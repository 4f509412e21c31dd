"""What the served edition got wrong lately: it corrects verdicts, and learns from labels.

Final verdicts wait in Redis for their label. A label makes an entry of the version's error memory
(key, label - prediction), which every replica reads within a fraction of a second. A class that the
edition never knew gets a column behind the edition's own with its first label.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import redis
from numpy.typing import NDArray

from feature_store.editions.corrections import (
    NEW_CLASSES,
    class_names,
    corrected_classes,
    new_classes,
    new_classes_key,
)
from feature_store.editions.traffic import MODEL_NAME
from feature_store.error_memory import ErrorBatch, MemoryPolicy
from feature_store.error_memory.drift import alarm_with
from feature_store.error_memory.events import (
    EventLog,
    LabelledEvent,
    Rebased,
    learn_anew,
    rebase,
)
from feature_store.error_memory.hashing import source_id
from feature_store.error_memory.influence import Influential
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.mixture import log_losses
from feature_store.error_memory.remembered import Described, Remembered
from feature_store.error_memory.replica import MemoryReplica
from feature_store.online import Headroom
from feature_store.online.headroom import SHARE
from feature_store.traffic.features import Tier
from feature_store.traffic.flows.packing import unpack_flows
from services.classify.labels import Label, Learned
from services.classify.memory_policy import DEFAULT_POLICY
from services.classify.replicas import RecentStream
from services.classify.retry import Retry
from services.classify.stream import ServedEdition
from services.classify.verdict import Verdict
from services.classify.waiting import WaitingVerdict

log = logging.getLogger(__name__)
FloatArray = NDArray[np.float32]

FLOW = "flow"  # a prediction's only case
WAIT_FOR_LABEL_S = 3 * 3600
LOOK_EVERY_S = 1.0  # at Redis's memory
# Of a client that is given here: longer than the replica waits for something new.
REDIS_TIMEOUT_S = 2.0

# A name has one column for the life of the version, whoever asks first.
_COLUMN = """
local column = redis.call('HGET', KEYS[1], ARGV[1])
if column then return tonumber(column) end
local taken = redis.call('HLEN', KEYS[1])
if taken >= tonumber(ARGV[2]) then return -1 end
redis.call('HSET', KEYS[1], ARGV[1], taken)
return taken
"""


class OnLabel(Protocol):
    """Hears of labels that were learned."""

    def __call__(self, confidence: float, /, *, right: bool) -> None:
        """One label."""


class TrafficMemory:
    """The error memory of one served edition: a `Corrector`, and a `Sink` of final verdicts.

    Attributes:
        dropped: verdicts that were not kept for their label: Redis was gone, or nearly full.
        replica: the memory as this process holds it.
        log: its stream.
    """

    def __init__(
        self,
        client: redis.Redis,
        served: ServedEdition,
        *,
        tenant: str = "default",
        policy: MemoryPolicy = DEFAULT_POLICY,
        ttl_s: int = WAIT_FOR_LABEL_S,
        redis_share: float = SHARE,
        monotonic: Callable[[], float] = time.monotonic,
        rebase_again: bool = False,
        on_label: OnLabel | None = None,
        recent: RecentStream | None = None,
    ) -> None:
        """Begins and catches up if Redis answers; otherwise catches up as soon as it does.
        `redis_share`: while more of Redis's memory is used no verdicts are kept for their label.
        `on_label`: is told of each label that was learned, how sure the model itself had been and
        whether it was right. `recent`: final verdicts are also added there."""
        self.dropped = 0
        self._secret = os.urandom(32)
        self._redis = client
        self._tenant = tenant
        self._served = served
        self._ttl_s = ttl_s
        self._monotonic = monotonic
        self._on_label = on_label
        self._recent = recent
        self._headroom = Headroom("verdicts", share=redis_share)
        self._retry = Retry(monotonic)
        self._look_at = 0.0
        self._own = served.edition.classes
        self._width = len(self._own) + NEW_CLASSES
        self._new: tuple[str, ...] = ()
        self._waiting = f"errata:{tenant}:verdict:"
        self.log = MemoryLog(client, model=MODEL_NAME, version=served.version, tenant=tenant)
        self._events = EventLog(client, model=MODEL_NAME, tenant=tenant)
        self.rebased: Rebased | None = None
        self._heard_until = "0-0"
        self._names = new_classes_key(self.log)
        self._column = client.register_script(_COLUMN)
        self._policy = policy
        self._shape: dict[str, Any] = {
            "d": served.edition.keys.centre.shape[0],
            "n_classes": self._width,
            "known_classes": len(self._own),
        }
        self.replica = MemoryReplica(
            self.log,
            policy,
            **self._shape,
            on_change=self._read_names,
            on_drift=alarm_with(client, model=MODEL_NAME, version=served.version, tenant=tenant),
        )
        self.replica.memory.warm_up()
        try:
            self.begin(again=rebase_again)
            self.replica.catch_up()
            self._read_names()
        except redis.RedisError as error:
            log.warning("the error memory of %s starts empty: %s", served.version, error)
        self.replica.start()

    def begin(self, *, again: bool = False) -> None:
        """Begin with recent labels, once for all replicas.

        Raises:
            redis.RedisError: the server is gone; a later call goes on.
        """
        scratch = MemoryReplica(self.log, self._policy, **self._shape)
        self._heard_until = self._events.end()
        self.rebased = rebase(self.log, self._events, scratch, self._encode, again=again)

    @property
    def classes(self) -> tuple[str, ...]:
        """See `Corrector`."""
        return class_names(self._own, self._new)

    @property
    def reads_hidden(self) -> bool:
        """See `Corrector`: nothing is near a key while nothing is remembered."""
        return self.replica.memory.speaks

    def correct(self, probability: FloatArray, hidden: FloatArray) -> FloatArray:
        """See `Corrector`."""
        if not hidden.shape[1]:
            return np.pad(probability, [(0, 0), (0, NEW_CLASSES)])
        return self._read(probability, hidden)[0]

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """Keep final verdicts for their labels, in one round trip; see `Sink`.

        Once a second Redis's memory is looked at before: nothing else comes round in every command
        and service that writes verdicts.
        """
        final = [each for each in verdicts if each.final]
        if not final:
            return
        if not self._retry.is_due:
            self.dropped += len(final)
            return
        pipeline = self._redis.pipeline(transaction=False)
        if self._recent is not None:
            self._recent.add(pipeline, final)
        kept = 0
        try:
            with self._retry.asking():
                if self._has_room():
                    self._keep(pipeline, final)
                    kept = len(final)
                pipeline.execute()
        except redis.RedisError:
            kept = 0
        self.dropped += len(final) - kept

    def learn(self, labels: Sequence[Label]) -> list[Learned]:
        """Make entries of labels; answers in their order.

        Raises:
            redis.RedisError: the server is gone: nothing of it was learned for certain, and the
                same labels may be sent again.
        """
        kept: Any = self._redis.mget([self._waiting + each.prediction_id for each in labels])
        answers = [Learned.EXPIRED] * len(labels)
        columns: dict[str, int] = {}
        for row, (label, raw) in enumerate(zip(labels, kept, strict=True)):
            waiting = WaitingVerdict.unpack(raw) if raw is not None else None
            # A label from which nothing can be learned takes no place that a class could have.
            if waiting is None or not (waiting.case or waiting.version == self._served.version):
                continue
            if label.label not in columns:
                columns[label.label] = self.column(label.label)
            column = columns[label.label]
            if column < 0:
                answers[row] = Learned.NO_ROOM
                continue
            event = _event(waiting, label)
            if waiting.version == self._served.version:
                new = self.log.append(self._entry(waiting, column, label)).entries
            else:  # a version before this one had said it
                new = learn_anew(self.log, self.replica, self._encode, event)
            answers[row] = Learned.LEARNED if new else Learned.DUPLICATE
            if new and self._on_label is not None:
                own = waiting.own
                self._on_label(float(own.max()), right=int(own.argmax()) == column)
            if new and waiting.case:
                self._events.append(event)
        return answers

    def learn_from_others(self) -> None:
        """What services of other versions were told since the last call, or since this memory
        began: replicas do not switch at one time. A label counts once.

        Raises:
            redis.RedisError: the server is gone.
        """
        end = self._events.end()
        for event in self._events.since(self._heard_until):
            learn_anew(self.log, self.replica, self._encode, event)
        self._heard_until = end

    def close(self) -> None:
        """Stop tailing; see `Sink`."""
        self.replica.stop()

    def column(self, name: str) -> int:
        """The column of a class, taken if it is new; -1 when there is no room for it.

        Raises:
            redis.RedisError: the server is gone.
        """
        if name in self._own:
            return self._own.index(name)
        taken = int(self._column(keys=[self._names], args=[name, NEW_CLASSES]))
        return taken if taken < 0 else len(self._own) + taken

    def remembered(self) -> Remembered:
        """For whoever looks into it."""
        return Remembered(
            title="traffic",
            tenant=self._tenant,
            log=self.log,
            replica=self.replica,
            describe=self._described,
        )

    def _has_room(self) -> bool:
        if self._monotonic() >= self._look_at:
            self._headroom.look(self._redis)
            self._look_at = self._monotonic() + LOOK_EVERY_S
        return not self._headroom.full

    def _keep(self, pipeline: Any, final: Sequence[Verdict]) -> None:
        losses = self._losses(
            np.stack([each.own for each in final]), np.stack([each.hidden for each in final])
        )
        raw = self._served.edition.tier is Tier.T2
        for verdict, loss in zip(final, losses, strict=True):
            kept = WaitingVerdict.of(verdict, loss, raw=raw, key=self._secret).pack()
            pipeline.set(self._waiting + verdict.prediction_id, kept, ex=self._ttl_s)

    def _described(self, entries: Influential) -> list[Described]:
        classes = self.classes
        return [
            Described(None, predicted=classes[predicted], outcome=classes[label])
            for predicted, label in zip(
                entries.predictions.argmax(1), entries.labels.argmax(1), strict=True
            )
        ]

    def _read(self, own: FloatArray, hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Corrected probabilities, and the experts' estimates (n, E + 1, columns)."""
        keys = self._served.edition.memory_keys(own, hidden)
        corrected, reading = corrected_classes(self.replica, keys, own)
        estimates = np.concatenate([reading.estimates, reading.mixed[:, None]], axis=1)
        return corrected, estimates

    def _losses(self, own: FloatArray, hidden: FloatArray) -> FloatArray:
        """(n, columns, E + 1) each expert's log loss if that column were the label."""
        _, estimates = self._read(own, hidden)
        eye = np.eye(self._width, dtype=np.float32)
        return np.stack(
            [log_losses(estimates, eye[column][None, None]) for column in range(self._width)],
            axis=1,
        ).astype(np.float32)

    def _encode(self, events: Sequence[LabelledEvent]) -> ErrorBatch | None:
        """Flows as this edition classifies them; labels for which there is no room are left out."""
        columns = {
            name: self.column(name)
            for name in {str(label) for each in events for label in each.labels.values()}
        }
        known = [
            (each, columns[str(each.labels[FLOW])])
            for each in events
            if columns[str(each.labels[FLOW])] >= 0
        ]
        if not known:
            return None
        edition = self._served.edition
        found = edition.classify(unpack_flows([each.case for each, _ in known], edition.packets))
        predicted = np.zeros((len(known), self._width), np.float32)
        predicted[:, : len(self._own)] = found.probability
        return ErrorBatch.of(
            edition.memory_keys(found.probability, found.hidden),
            np.eye(self._width, dtype=np.float32)[[column for _, column in known]],
            predicted,
            contexts=self._contexts(found.probability),
            time_ms=np.array([each.time_ms for each, _ in known], np.int64),
            sources=np.array([each.source for each, _ in known], np.uint64),
            feedback_ids=np.array([each.ids[FLOW] for each, _ in known], np.uint64),
        )

    def _entry(self, waiting: WaitingVerdict, column: int, label: Label) -> ErrorBatch:
        one_hot = np.zeros((1, self._width), np.float32)
        one_hot[0, column] = 1
        predicted = np.zeros((1, self._width), np.float32)
        predicted[0, : len(waiting.own)] = waiting.own
        return ErrorBatch.of(
            self._served.edition.memory_keys(waiting.own[None], waiting.hidden[None]),
            one_hot,
            predicted,
            losses=waiting.losses[column][None],
            contexts=self._contexts(waiting.own[None]),
            time_ms=np.array([waiting.time_ns // 1_000_000], np.int64),
            sources=np.array([source_id(label.source)], np.uint64),
            feedback_ids=np.array([label.entry_id], np.uint64),
        )

    def _contexts(self, own: FloatArray) -> NDArray[np.int64]:
        """(n,) rows of mixing weights: one for all classes, where the policy has no more."""
        rows: NDArray[np.int64] = own.argmax(axis=1).astype(np.int64)
        return rows if self._policy.contexts else np.zeros_like(rows)

    def _read_names(self) -> None:
        self._new = new_classes(self.log)


def _event(waiting: WaitingVerdict, label: Label) -> LabelledEvent:
    return LabelledEvent(
        version=waiting.version,
        case=waiting.case,
        names=(FLOW,),
        labels={FLOW: label.label},
        ids={FLOW: label.entry_id},
        source=source_id(label.source),
        time_ms=waiting.time_ns // 1_000_000,
    )
