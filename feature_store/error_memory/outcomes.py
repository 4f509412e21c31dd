"""What was served, kept until its outcome is known; joined, it becomes an entry.

errata:TENANT:served:ID    the cases of prediction ID, packed, with a time to live
errata:TENANT:taken:ID     which of them have had an outcome
errata:TENANT:opened:ID    who said the first of these, by a hash: what is left besides is theirs
errata:TENANT:exposed:MODEL   predictions of which something was taken (or all), by when the rest
                              count as left
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import redis
from numpy.typing import NDArray

from feature_store.error_memory.batch import ErrorBatch
from feature_store.error_memory.events import LabelledEvent
from feature_store.error_memory.hashing import source_id
from feature_store.error_memory.log import Appended
from feature_store.error_memory.wire import pack, unpack
from feature_store.expiring import ExpiringValues

log = logging.getLogger(__name__)

TTL_S = 86_400
EXPOSURE_WINDOW_S = 1_800
_SWEPT_AT_ONCE = 500
# A shorter case costs more to compress than to keep for a day.
_COMPRESSED_ABOVE = 2_000


@dataclass(frozen=True)
class Served:
    """The cases of one prediction.

    Attributes:
        version: of the model that predicted.
        fingerprint: of the policy whose losses the batch will carry.
        names: of the cases: item ids, or one flow.
        batch: n cases; labels are not known yet and `losses` holds the experts' and the mixture's
            estimates (n, E + 1) for scores, or nothing for classes.
        source: who will say the outcome.
        case: what the model saw; empty where no later version is to read it again.
    """

    prediction_id: str
    version: str
    fingerprint: str
    names: tuple[str, ...]
    batch: ErrorBatch
    source: str = ""
    case: bytes = b""


@dataclass(frozen=True)
class Expected:
    """The cases of several predictions of one version, end to end, whose outcome will be known.

    Attributes:
        version, fingerprint: as in `Served`.
        prediction_ids: of P predictions.
        names: of each one's cases, which are as many rows of `batch`.
        batch: the cases of all.
        sources, cases: as in `Served`, of each prediction.
    """

    version: str
    fingerprint: str
    prediction_ids: Sequence[str]
    names: Sequence[Sequence[str]]
    batch: ErrorBatch
    sources: Sequence[str]
    cases: Sequence[bytes]

    def packed(self) -> dict[str, bytes]:
        """Each prediction as it is kept. Packed together: a prediction by itself costs as much as
        a hundred."""
        header, records = pack(self.batch)
        cells, size = records.tobytes(), records.itemsize
        kept, at = {}, 0
        for prediction_id, names, source, case in zip(
            self.prediction_ids, self.names, self.sources, self.cases, strict=True
        ):
            short = len(case) < _COMPRESSED_ABOVE
            case = case if short else zlib.compress(case, 1)
            facts = orjson.dumps(
                (self.version, self.fingerprint, source, names, len(case), not short)
            )
            end = at + len(names) * size
            kept[prediction_id] = b"".join(
                (len(facts).to_bytes(4, "little"), facts, case, header, cells[at:end])
            )
            at = end
        return kept


class Outcomes:
    """Joins outcomes with what was served. Raises `redis.RedisError` when the server is gone."""

    def __init__(
        self,
        client: redis.Redis,
        append: Callable[[str, ErrorBatch], Appended],
        *,
        model: str,
        tenant: str = "default",
        ttl_s: int = TTL_S,
        window_s: float = EXPOSURE_WINDOW_S,
        unanswered: bool = False,
        clock: Callable[[], float] = time.time,
        record: Callable[[LabelledEvent], None] = lambda _: None,
        policy_of: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """Join outcomes that arrive within `ttl_s`.

        Args:
            append: writes entries of a model version to its log.
            window_s: after which what was shown and not taken counts as left.
            unanswered: whether that is so also of an answer of which nothing was taken; by default
                it says nothing, for nobody may have seen it.
            record: is told each outcome that was new, with its case.
            policy_of: fingerprint of the policy by which a version is read now, where that is
                known. What was served by another says nothing of this one's experts.
        """
        self._redis = client
        self._values = ExpiringValues(client)
        self._append = append
        self._prefix = f"errata:{tenant}"
        self._exposed = f"{self._prefix}:exposed:{model}"
        self._ttl_s, self._window_s = ttl_s, window_s
        self._unanswered, self._clock = unanswered, clock
        self._record = record
        self._policy_of = policy_of

    def expect(self, expected: Expected) -> None:
        """Keep what was served until its outcome is known."""
        prefix = self._key("served", "")
        packed = {prefix + each: value for each, value in expected.packed().items()}
        self._values.keep(packed, ttl_s=self._ttl_s)
        if self._unanswered and expected.prediction_ids:
            due = self._clock() + self._window_s
            self._redis.zadd(self._exposed, dict.fromkeys(expected.prediction_ids, due), nx=True)

    def served(self, prediction_id: str) -> Served | None:
        """What was served, if it still waits and can be read."""
        raw: Any = self._redis.get(self._key("served", prediction_id))
        if raw is None:
            return None
        try:
            return _unpacked(prediction_id, raw)
        except (ValueError, TypeError, zlib.error) as error:  # another release wrote it
            log.warning("what was served as %s cannot be read: %s", prediction_id, error)
            return None

    def outcome(
        self,
        prediction_id: str,
        name: str,
        label: float,
        *,
        feedback_id: str,
        weight: float = 1.0,
        source: str | None = None,
        time_ms: int | None = None,
    ) -> bool:
        """One case's outcome, a score in [0, 1]; False when the prediction is not kept any more,
        lacks the case, or the feedback had been counted.

        The prediction's other cases will count as left when the window is over.
        """
        served = self.served(prediction_id)
        if served is None or name not in served.names:
            return False
        now_ms = int(self._clock() * 1_000)
        row = served.names.index(name)
        entry = self._entry(served, [row], label)
        entry = replace(
            entry,
            weights=np.array([weight], np.float32),
            sources=np.array([source_id(served.source if source is None else source)], np.uint64),
            feedback_ids=np.array([source_id(f"{prediction_id}\0{feedback_id}")], np.uint64),
            time_ms=np.array([now_ms if time_ms is None else time_ms], np.int64),
        )
        appended = self._append(served.version, entry)
        if appended.entries:
            self._tell(served, entry, [row])
        taken = self._key("taken", prediction_id)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.sadd(taken, row)
        pipeline.expire(taken, self._ttl_s)
        opened = self._key("opened", prediction_id)
        pipeline.set(opened, int(entry.sources[0]), nx=True, ex=self._ttl_s)
        due = self._clock() + self._window_s
        pipeline.zadd(self._exposed, {prediction_id: due}, nx=True)
        pipeline.execute()
        return appended.entries > 0

    def sweep(self) -> int:
        """Count as left what was shown beside something that was taken, once the window is over;
        returns the entries written."""
        due: Any = self._redis.zrange(
            self._exposed,
            "-inf",
            self._clock(),
            byscore=True,
            offset=0,
            num=_SWEPT_AT_ONCE,
        )
        written = 0
        for raw in due:
            prediction_id = raw.decode()
            served = self.served(prediction_id)
            if served is not None:
                taken = {int(row) for row in self._members(prediction_id)}
                rows = [row for row in range(len(served.names)) if row not in taken]
                opened: Any = self._redis.get(self._key("opened", prediction_id))
                source = source_id(served.source) if opened is None else int(opened)
                entry = self._entry(served, rows, 0.0)
                ids = [source_id(f"{prediction_id}\0left\0{row}") for row in rows]
                entry = replace(
                    entry,
                    sources=np.full(len(rows), source, np.uint64),
                    feedback_ids=np.array(ids, np.uint64),
                    time_ms=np.full(len(rows), int(self._clock() * 1_000), np.int64),
                )
                appended = self._append(served.version, entry)
                if appended.entries:
                    self._tell(served, entry, rows)
                written += appended.entries
            # Last: a sweep that died before is repeated, and its entries count once.
            self._redis.zrem(self._exposed, prediction_id)
        return written

    def _entry(self, served: Served, rows: Sequence[int], label: float) -> ErrorBatch:
        found = _labelled(served, rows, label)
        if self._policy_of(served.version) in (None, served.fingerprint):
            return found
        return replace(found, losses=np.full_like(found.losses, np.nan))

    def _tell(self, served: Served, entry: ErrorBatch, rows: Sequence[int]) -> None:
        if not served.case or not rows:
            return
        names = [served.names[row] for row in rows]
        self._record(
            LabelledEvent(
                version=served.version,
                case=served.case,
                names=served.names,
                labels=dict(zip(names, entry.labels[:, 0].tolist(), strict=True)),
                ids=dict(zip(names, entry.feedback_ids.tolist(), strict=True)),
                source=int(entry.sources[0]),
                time_ms=int(entry.time_ms[0]),
                weight=float(entry.weights[0]),
            )
        )

    def _members(self, prediction_id: str) -> set[bytes]:
        members: Any = self._redis.smembers(self._key("taken", prediction_id))
        return set(members)

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"


def _labelled(served: Served, rows: Sequence[int], label: float) -> ErrorBatch:
    """The cases `rows` with their outcome, and with losses in place of estimates."""
    part = served.batch[np.array(rows, np.int64)]
    p = np.clip(part.losses, 1e-4, 1 - 1e-4)
    losses = -(label * np.log(p) + (1 - label) * np.log(1 - p))
    labels = np.full_like(part.labels, label)
    return replace(part, labels=labels, losses=losses.astype(np.float32))


def _unpacked(prediction_id: str, raw: bytes) -> Served:
    size = int.from_bytes(raw[:4], "little")
    facts = orjson.loads(raw[4 : 4 + size])
    # What an earlier release kept ends before the case, or before how it is written.
    facts += (0, True)[len(facts) - 4 :]
    version, fingerprint, source, names, length, compressed = facts[:6]  # a later one says more
    case = raw[4 + size : 4 + size + length]
    case = zlib.decompress(case) if case and compressed else case
    batch = unpack(raw[4 + size + length :])
    return Served(prediction_id, version, fingerprint, tuple(names), batch, source, case)


def cases(
    keys: NDArray[np.float32], predictions: NDArray[np.float32], estimates: NDArray[np.float32]
) -> ErrorBatch:
    """Cases of scores that await their outcome; `estimates`: (n, E + 1)."""
    return ErrorBatch.of(keys, np.zeros_like(predictions), predictions, losses=estimates)
