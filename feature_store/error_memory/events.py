"""Labelled events with what the model had seen of them: what a new version's memory begins with.

    errata:TENANT:events:MODEL            a capped stream, one message an outcome
    errata:TENANT:memory:{MODEL:VERSION}:rebased   that a version's memory has begun, and with what

An error is relative to the model that made it. A new version therefore reads the same cases anew.
"""

from __future__ import annotations

import logging
import time
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import redis

from feature_store.error_memory.batch import ErrorBatch
from feature_store.error_memory.hashing import source_id
from feature_store.error_memory.log import MemoryLog
from feature_store.error_memory.replica import MemoryReplica
from feature_store.pacing import Pause, no_pause

log = logging.getLogger(__name__)

CAP = 20_000
REBASED = 10_000
_AT_ONCE = 256
_LEASE_S = 30
_WAIT_S = 60.0
_POLL_S = 0.05


@dataclass(frozen=True)
class LabelledEvent:
    """One outcome, whatever model it is shown to.

    Attributes:
        version: that had predicted.
        case: what the model saw, as the service packs it.
        names: of the cases of the prediction; `labels` has an entry for some of them.
        labels: name → the outcome: a score, or a class's name.
        ids: name → the feedback id's hash, under which the outcome counts once.
        source: hash of who said it. time_ms: when it happened.
    """

    version: str
    case: bytes
    names: tuple[str, ...]
    labels: dict[str, float | str]
    ids: dict[str, int]
    source: int
    time_ms: int
    weight: float = 1.0


Encode = Callable[[Sequence[LabelledEvent]], ErrorBatch | None]
"""Entries of events as the new version predicts them, in their order; None where none can be."""


class EventLog:
    """The labelled events of a model, of all its versions. Raises `redis.RedisError` when the
    server is gone."""

    def __init__(
        self, client: redis.Redis, *, model: str, tenant: str = "default", cap: int = CAP
    ) -> None:
        """`cap`: outcomes kept, roughly."""
        self.client = client
        self.key = f"errata:{tenant}:events:{model}"
        self._cap = cap

    def append(self, event: LabelledEvent) -> None:
        """Write down an outcome."""
        facts = orjson.dumps(
            [event.version, event.names, event.labels, event.ids, event.source, event.time_ms,
             event.weight]
        )  # fmt: skip
        self.client.xadd(
            self.key,
            {"f": facts, "c": zlib.compress(event.case, 1)},
            maxlen=self._cap,
            approximate=True,
        )

    def recent(self, most: int = REBASED) -> list[LabelledEvent]:
        """The newest outcomes, oldest first; what another release wrote otherwise is left out."""
        messages: Any = self.client.xrevrange(self.key, count=most)
        return self._read(messages[::-1])

    def end(self) -> str:
        """Where the log ends now, for `since`."""
        last: Any = self.client.xrevrange(self.key, count=1)
        return last[0][0].decode() if last else "0-0"

    def since(self, end: str) -> list[LabelledEvent]:
        """The outcomes behind an earlier `end`, oldest first."""
        return self._read(self.client.xrange(self.key, f"({end}"))

    def _read(self, messages: Any) -> list[LabelledEvent]:
        found, unreadable = [], 0
        for _, fields in messages:
            try:
                found.append(_unpacked(fields))
            except (ValueError, TypeError, KeyError, zlib.error):
                unreadable += 1
        if unreadable:
            log.warning("%d outcomes in %s cannot be read and are left out", unreadable, self.key)
        return found

    def __len__(self) -> int:
        return int(self.client.xlen(self.key))


def erase_events(client: redis.Redis, source: str, *, tenant: str = "default") -> int:
    """Delete what a source said from the events of every model; returns how many."""
    wanted = source_id(source)
    escaped = "".join(f"\\{each}" if each in "*?[]\\" else each for each in tenant)
    removed = 0
    for key in client.scan_iter(match=f"errata:{escaped}:events:*", count=1_000, _type="stream"):
        messages: Any = client.xrange(key)
        doomed = [name for name, fields in messages if orjson.loads(fields[b"f"])[4] == wanted]
        if doomed:
            removed += int(client.xdel(key, *doomed))
    return removed


@dataclass(frozen=True)
class Rebased:
    """What a version's memory began with.

    Attributes:
        events: outcomes that were replayed. entries: what became of them.
        predecessor: the version that had answered last; None where there was none.
        fresh: False when the memory had begun before.
    """

    events: int
    entries: int
    predecessor: str | None
    fresh: bool


def rebase(
    stream: MemoryLog,
    events: EventLog,
    replica: MemoryReplica,
    encode: Encode,
    *,
    most: int = REBASED,
    again: bool = False,
    pause: Pause = no_pause,
) -> Rebased:
    """Let a new version's memory begin with recent outcomes, replayed through the new version.

    One process does it; others wait until it is done. The predecessor's decisions (forgotten
    sources, a switch, a policy) hold on. Outcomes that the memory holds already count once.

    Args:
        stream: of the new version.
        events: of the model.
        replica: of `stream`, for this alone: it is not started.
        encode: reads cases with the new version.
        most: outcomes that are replayed.
        again: also where the memory had begun.
        pause: is called between batches.

    Raises:
        redis.RedisError: the server is gone; a later call goes on.
    """
    client, marker, lease = stream.client, stream.rebased_key, f"{stream.key}:rebasing"
    mine = uuid.uuid4().hex
    deadline = time.monotonic() + _WAIT_S
    while True:
        done: Any = client.get(marker)
        if done is not None and not again:
            facts = orjson.loads(done)
            return Rebased(facts["events"], facts["entries"], facts["predecessor"], fresh=False)
        if client.set(lease, mine, nx=True, ex=_LEASE_S):
            break
        if time.monotonic() > deadline:
            log.warning("the memory of %s is being begun by another process", stream.version)
            return Rebased(0, 0, None, fresh=False)
        time.sleep(_POLL_S)
    try:
        recent = events.recent(most)
        others = [each.version for each in recent if each.version != stream.version]
        predecessor = others[-1] if others else None
        stream.inherit(predecessor)
        replica.catch_up(pause)
        before = stream.position()
        for start in range(0, len(recent), _AT_ONCE):
            client.expire(lease, _LEASE_S)
            _replay(stream, replica, encode, recent[start : start + _AT_ONCE])
            pause()
        entries = stream.position() - before
        found = Rebased(len(recent), entries, predecessor, fresh=True)
        told = {"events": found.events, "entries": entries, "predecessor": predecessor}
        client.set(marker, orjson.dumps(told | {"time": time.time()}))
        stream.renew()
        return found
    finally:
        if client.get(lease) == mine.encode():
            client.delete(lease)


def learn_anew(
    stream: MemoryLog, replica: MemoryReplica, encode: Encode, event: LabelledEvent
) -> int:
    """An outcome of another version's prediction, as this version would have predicted; returns
    the entries that were new."""
    batch = encode([event])
    return 0 if batch is None else stream.append(_with_losses(replica, batch)).entries


def _replay(
    stream: MemoryLog, replica: MemoryReplica, encode: Encode, events: Sequence[LabelledEvent]
) -> None:
    batch = encode(events)
    if batch is None or not len(batch):
        return
    kept = ~np.isin(batch.sources, replica.forgotten)
    stream.append(_with_losses(replica, batch[kept]))
    replica.poll()


def _with_losses(replica: MemoryReplica, batch: ErrorBatch) -> ErrorBatch:
    """The experts' losses as if the case were predicted now, before its outcome is known."""
    if not len(batch):
        return batch
    reading = replica.read(batch.keys, batch.predictions)
    return replace(batch, losses=reading.losses(batch.labels), contexts=reading.contexts)


def _unpacked(fields: dict[bytes, bytes]) -> LabelledEvent:
    # A later release may say more.
    version, names, labels, ids, source, time_ms, weight = orjson.loads(fields[b"f"])[:7]
    return LabelledEvent(
        version, zlib.decompress(fields[b"c"]), tuple(names), labels, ids, source, time_ms, weight
    )
