"""The truth: an append-only, capped stream of entries per model version in Redis.

    errata:TENANT:memory:{MODEL:VERSION}           entries; a message is a batch
    errata:TENANT:memory:{MODEL:VERSION}:control   tombstones, switches, policies: JSON, kept whole
    errata:TENANT:memory:{MODEL:VERSION}:seen:N    feedback ids of period N
    errata:TENANT:decided:MODEL                    versions about which something was decided

A message's id counts the entries of the version up to its end, so every replica numbers the
entries alike, whenever it started, and the cap is exact to a message. The braces put all keys of a
version into one slot of a cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import redis

from feature_store.error_memory.batch import ErrorBatch
from feature_store.error_memory.hashing import source_id
from feature_store.error_memory.wire import CorruptEntryError, pack, unpack

log = logging.getLogger(__name__)

CAP = 2**20
# Of a version that no replica serves and nobody teaches: time enough to roll back to it.
UNSERVED_S = 30 * 86_400
SEEN_PERIOD_S = 3 * 86_400
_FETCHED = 512
_LEFT_OUT = ("forget", "cut")  # decisions about entries

# One round trip, atomic: an id counts once, the rest becomes one message, the stream stays capped.
# Ids are looked up many at a time: a call a piece would cost more than all the rest.
_APPEND = """
local header, size, cap, period = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local records, ids = ARGV[5], ARGV[6]
local now = tonumber(redis.call('TIME')[1])
local current = KEYS[1] .. ':seen:' .. math.floor(now / period)
local before = KEYS[1] .. ':seen:' .. (math.floor(now / period) - 1)
local none, total, together = '\\0\\0\\0\\0\\0\\0\\0\\0', #records / size, 1000
local kept, here = {}, {}
for first = 1, total, together do
  local names, new = {}, {}
  for i = first, math.min(first + together - 1, total) do
    names[#names + 1] = string.sub(ids, i * 8 - 7, i * 8)
  end
  local earlier = redis.call('SMISMEMBER', before, unpack(names))
  local lately = redis.call('SMISMEMBER', current, unpack(names))
  for i, id in ipairs(names) do
    if id == none then
      kept[#kept + 1] = first + i - 1
    elseif earlier[i] == 0 and lately[i] == 0 and not here[id] then
      here[id] = true
      new[#new + 1] = id
      kept[#kept + 1] = first + i - 1
    end
  end
  if #new > 0 then redis.call('SADD', current, unpack(new)) end
end
local n, parts = #kept, {header}
if n == total then
  parts[2] = records
else
  for i, place in ipairs(kept) do
    parts[i + 1] = string.sub(records, (place - 1) * size + 1, place * size)
  end
end
if n == 0 then return {0, 0} end
redis.call('EXPIRE', current, 2 * period)
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local number = n
if #last > 0 then number = number + tonumber(string.match(last[1][1], '^(%d+)')) end
redis.call('XADD', KEYS[1], number .. '-0', 'b', table.concat(parts))
if number > cap then redis.call('XTRIM', KEYS[1], 'MINID', (number - cap) .. '-0') end
return {n, number}
"""


@dataclass(frozen=True)
class Appended:
    """What became of a batch.

    Attributes:
        entries: how many were new; the others' feedback ids had been seen.
        position: the stream's end behind them, 0 if none was new.
    """

    entries: int
    position: int


@dataclass(frozen=True)
class Control:
    """One decision about a memory.

    Attributes:
        kind: `forget` (all entries of a source), `cut` (one entry), `on`, `off`, or `policy`.
        values: what it says, JSON.
    """

    kind: str
    values: dict[str, Any]


class MemoryLog:
    """One version's stream. Every method is one round trip but the iterators, which page.

    Raises `redis.RedisError` when the server is gone.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        model: str,
        version: str,
        tenant: str = "default",
        cap: int = CAP,
    ) -> None:
        """`cap`: entries kept."""
        self._redis = self.client = client
        self.model, self.version, self.tenant = model, version, tenant
        self._cap = cap
        self.key = f"errata:{tenant}:memory:{{{model}:{version}}}"
        self._append = client.register_script(_APPEND)

    def append(self, batch: ErrorBatch) -> Appended:
        """Add the entries whose feedback ids are new; an id of 0 is always new."""
        if not len(batch):
            return Appended(0, 0)
        header, records = pack(batch)
        entries, position = self._append(
            keys=[self.key],
            args=[
                header,
                records.itemsize,
                self._cap,
                SEEN_PERIOD_S,
                records.tobytes(),
                batch.feedback_ids.astype("<u8").tobytes(),
            ],
        )
        return Appended(int(entries), int(position))

    def renew(self) -> None:
        """Keep the version's keys for another `UNSERVED_S`: whoever serves it says so."""
        pipeline = self._redis.pipeline(transaction=False)
        for key in (self.key, self._control, self.rebased_key):
            pipeline.expire(key, UNSERVED_S)
        pipeline.execute()

    def server_id(self) -> str:
        """Another one after each start of the server, and of the one that stands in for it; always
        the same of a server that does not say."""
        try:
            found: Any = self._redis.info("server")
        except redis.ResponseError:
            return ""
        return str(found.get("run_id", ""))

    def position(self) -> int:
        """Entries ever written."""
        last: Any = self._redis.xrevrange(self.key, count=1)
        return _number(last[0][0]) if last else 0

    def entries(self, *, after: int = 0) -> Iterator[tuple[int, ErrorBatch]]:
        """What is kept behind position `after`, oldest first: (position behind it, batch)."""
        while True:
            messages: Any = self._redis.xrange(self.key, f"({after}-0", "+", count=_FETCHED)
            for message_id, fields in messages:
                after = _number(message_id)
                if len(batch := self._batch(message_id, fields)):
                    yield after, batch
            if len(messages) < _FETCHED:
                return

    def newest(self, n: int) -> list[ErrorBatch]:
        """The newest `n` entries, oldest first, in the batches that they came in."""
        messages: Any = self._redis.xrevrange(self.key, count=n)
        batches: list[ErrorBatch] = []
        for message_id, fields in messages:
            if n <= 0:
                break
            if len(batch := self._batch(message_id, fields)[-n:]):
                batches.append(batch)
                n -= len(batch)
        return batches[::-1]

    def wait(
        self, *, after: int, after_control: str, block_ms: int
    ) -> tuple[list[tuple[int, ErrorBatch]], bool]:
        """Entries behind `after`, and whether there is news behind `after_control`; waits up to
        `block_ms` for either. A message that cannot be read has none."""
        found: Any = self._redis.xread(
            {self.key: f"{after}-0", self._control: after_control}, count=_FETCHED, block=block_ms
        )
        streams = dict(found or [])
        entries = [
            (_number(message_id), self._batch(message_id, fields))
            for message_id, fields in streams.get(self.key.encode(), [])
        ]
        return entries, self._control.encode() in streams

    def decide(self, kind: str, **values: Any) -> None:
        """Write a decision that every replica follows."""
        self._redis.sadd(self._decided, self.version)
        self._redis.xadd(self._control, {"kind": kind, "values": orjson.dumps(values)})

    def inherit(self, predecessor: str | None) -> None:
        """What was decided about other versions of the model holds on: sources and entries that
        any of them left out, and the predecessor's switch and policy, where this version has
        neither yet. All of it at once, or nothing."""
        own = self.controls()[0]
        undecided = all(each.kind in _LEFT_OUT for each in own)
        known = {(each.kind, str(each.values.get("id"))) for each in own}
        names: Any = self._redis.smembers(self._decided)
        others = {each.decode() for each in names} | ({predecessor} if predecessor else set())
        pipeline = self._redis.pipeline(transaction=True)
        for version in sorted(others - {self.version}):
            before = MemoryLog(
                self._redis, model=self.model, version=version, tenant=self.tenant
            ).controls()[0]
            for control in before:
                name = (control.kind, str(control.values.get("id")))
                if control.kind in _LEFT_OUT:
                    wanted = name not in known
                else:
                    wanted = version == predecessor and undecided
                if wanted:
                    known.add(name)
                    values = orjson.dumps(control.values)
                    pipeline.xadd(self._control, {"kind": control.kind, "values": values})
        if len(pipeline):
            self._redis.sadd(self._decided, self.version)
            pipeline.execute()

    def controls(self) -> tuple[list[Control], str]:
        """All decisions, oldest first, and the id of the last."""
        messages: Any = self._redis.xrange(self._control)
        controls = [
            Control(fields[b"kind"].decode(), orjson.loads(fields[b"values"]))
            for _, fields in messages
        ]
        return controls, messages[-1][0].decode() if messages else "0-0"

    def left_out(self) -> tuple[frozenset[int], frozenset[int]]:
        """Sources that are forgotten, by their hashes, and single entries that were cut out, by
        their feedback ids."""
        sources, entries = set(), set()
        for control in self.controls()[0]:
            if control.kind == "forget":
                sources.add(int(control.values["id"]))
            elif control.kind == "cut":
                entries.add(int(control.values["id"]))
        return frozenset(sources), frozenset(entries)

    def forget_source(self, source: str) -> None:
        """Cut out every entry of a source, in every replica, also those that come later."""
        self.decide("forget", source=source, id=str(source_id(source)))

    def erase_name(self, source: str) -> None:
        """A source stays forgotten, and its name is nowhere in the decisions."""
        self.decide("forget", id=str(source_id(source)))
        messages: Any = self._redis.xrange(self._control)
        named = [
            message_id
            for message_id, fields in messages
            if orjson.loads(fields[b"values"]).get("source") == source
        ]
        if named:
            self._redis.xdel(self._control, *named)

    def forget_entry(self, feedback_id: int) -> None:
        """Cut out one entry, in every replica; `feedback_id` as the entry holds it, not 0."""
        self.decide("cut", id=str(feedback_id))

    def said_by(self, source: str) -> int:
        """Entries of a source in the stream, whether they are cut out or not."""
        wanted = np.uint64(source_id(source))
        return sum(int((batch.sources == wanted).sum()) for _, batch in self.entries())

    def _batch(self, message_id: bytes, fields: dict[bytes, bytes]) -> ErrorBatch:
        try:
            return unpack(fields[b"b"])
        except (CorruptEntryError, KeyError) as error:
            log.error("message %s of %s is left out: %s", message_id.decode(), self.key, error)
            nothing = np.zeros((0, 1), np.float32)
            return ErrorBatch.of(nothing, nothing, nothing)

    @property
    def rebased_key(self) -> str:
        """That the memory has begun, and with what; see `events.rebase`."""
        return f"{self.key}:rebased"

    @property
    def _decided(self) -> str:
        """Versions about which something was decided."""
        return f"errata:{self.tenant}:decided:{self.model}"

    @property
    def _control(self) -> str:
        return f"{self.key}:control"


def _number(message_id: bytes) -> int:
    return int(message_id.split(b"-")[0])
