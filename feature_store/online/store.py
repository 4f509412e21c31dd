"""The online store: what serving knows about users, and the predictions that await an outcome."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast

import orjson
import redis

from feature_store.expiring import ExpiringValues
from feature_store.online.client import Reader
from feature_store.online.records import Event, OnlineUser, StoredPrediction, StoredUser

HISTORY_LENGTH = 200
FEEDBACK_ID_TTL_S = 7 * 86_400
HIDDEN_LENGTH = 1_000
FORGOTTEN_LENGTH = 10_000
_PAGE = 500

# Whatever is changed of a user changes the revision too, which says in one value whether what a
# reader remembers still holds. A moment, and no count: one that was deleted must not come back.
_REVISE = """
local function revise(key)
  local now = redis.call('TIME')
  redis.call('SET', key, now[1] .. '.' .. now[2])
end
"""
# One round trip, atomic: a feedback id counts once, and the history stays capped. What a user
# does not want is kept apart (member = item, score = when), so that it outlives the history.
_APPEND = (
    _REVISE
    + """
if ARGV[1] ~= '' and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('LPUSH', KEYS[1], ARGV[4])
redis.call('LTRIM', KEYS[1], 0, ARGV[3] - 1)
if ARGV[5] ~= '' then
  redis.call('ZADD', KEYS[3], 'GT', ARGV[6], ARGV[5])
  redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -ARGV[7] - 1)
else
  local hidden = redis.call('ZSCORE', KEYS[3], ARGV[8])
  if hidden and tonumber(hidden) < tonumber(ARGV[6]) then redis.call('ZREM', KEYS[3], ARGV[8]) end
end
if ARGV[1] ~= '' then redis.call('SET', KEYS[2], '1', 'EX', ARGV[2]) end
revise(KEYS[4])
return 1
"""
)
_FILL = (
    _REVISE
    + """
revise(KEYS[2])
if redis.call('EXISTS', KEYS[1]) == 1 then return 'kept' end
for i = 1, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
return 'loaded'
"""
)
# One command, whatever the number of users: the client spends longer on a command than the server.
# A history is one JSON document, which is parsed faster than one an event.
_READ = """
local found = {}
for i = 1, #KEYS, 4 do
  local history = redis.call('LRANGE', KEYS[i], 0, ARGV[1])
  found[i] = '[' .. table.concat(history, ',') .. ']'
  found[i + 1] = redis.call('GET', KEYS[i + 1])
  found[i + 2] = redis.call('ZRANGE', KEYS[i + 2], 0, -1)
  found[i + 3] = redis.call('GET', KEYS[i + 3])
end
return found
"""
_LOADED = b"loaded"
# What is kept of a user under the user's own name.
_OF_A_USER = ("history", "features", "hidden", "revision")


@dataclass(frozen=True, slots=True)
class Materialised:
    """How many users got their offline history, and how many kept the one they had online."""

    loaded: int
    kept: int


_NOBODY: Mapping[str, StoredUser] = MappingProxyType({})
# Events of a history that are read.
_WHOLE = (HISTORY_LENGTH - 1,)


class OnlineStore:
    """User histories, user features and waiting predictions in Redis, one tenant a key prefix.

    Every method but `stored` is one round trip and raises `redis.RedisError` when the server is
    gone: the caller decides what a degraded answer is.
    """

    def __init__(self, client: redis.Redis, *, tenant: str = "default") -> None:
        """Keys begin with `errata:TENANT:`."""
        self._redis = client
        self._prefix = f"errata:{tenant}"
        self._append = client.register_script(_APPEND)
        self._reader = Reader(client, _READ)
        self._values = ExpiringValues(client)

    def ping(self) -> None:
        """Raise `redis.RedisError` unless the server answers."""
        self._redis.ping()

    def append(
        self, user_id: str, event: Event, *, feedback_id: str = "", hide: bool = False
    ) -> bool:
        """Put `event` at the head of the user's history; False if the user's `feedback_id` was
        seen before.

        With `hide` its item is also remembered as one that the user does not want, until the user
        takes it after all.
        """
        seen = self._key("feedback", f"{user_id}\0{feedback_id}")
        applied = self._append(
            keys=[
                *(self._key("history", user_id), seen),
                *(self._key("hidden", user_id), self._key("revision", user_id)),
            ],
            args=[
                *(feedback_id, FEEDBACK_ID_TTL_S, HISTORY_LENGTH, event.pack()),
                *(event.item_id if hide else "", event.timestamp_ms, HIDDEN_LENGTH),
                event.item_id,
            ],
        )
        return bool(applied)

    def user(self, user_id: str) -> OnlineUser:
        """What is known of one user; nothing for an unknown one."""
        return self.users([user_id])[0]

    def users(self, user_ids: Sequence[str]) -> list[OnlineUser]:
        """What is known of each user, in one round trip."""
        return [each.read() for each in self.stored(user_ids)]

    def stored(
        self,
        user_ids: Sequence[str],
        remembered: Mapping[str, StoredUser] = _NOBODY,
        *,
        meanwhile: Callable[[], None] | None = None,
    ) -> list[StoredUser]:
        """`users` as it is stored.

        Of those `remembered` only the revision is asked, and where it still holds they are what is
        returned; a second round trip reads those that have changed. Where all are remembered,
        `meanwhile` is called while their revisions are on their way.
        """
        kept = [each for each in user_ids if each in remembered and remembered[each].revision]
        found = {each: remembered[each] for each in kept}
        new = [each for each in user_ids if each not in found]
        if kept:
            prefix = self._key("revision", "")
            revisions, answers = self._reader.values(
                [prefix + each for each in kept],
                keys=self._keys(new),
                args=_WHOLE,
                meanwhile=None if new else meanwhile,
            )
            found.update(_read(new, answers or ()))
            new = [
                each
                for each, revision in zip(kept, revisions, strict=True)
                if revision != remembered[each].revision
            ]
        if new:
            found.update(_read(new, self._reader.script(keys=self._keys(new), args=_WHOLE)))
        return [found[each] for each in user_ids]

    def _keys(self, user_ids: Sequence[str]) -> list[str]:
        """Those of the script that reads."""
        prefixes = [self._key(kind, "") for kind in _OF_A_USER]
        return [prefix + user_id for user_id in user_ids for prefix in prefixes]

    def forget(self, user_id: str) -> int:
        """Delete all that is stored of a user, waiting predictions included; returns the keys.

        Looks at every prediction and feedback id that is kept: for an operator, not for a request.
        """
        gone = [self._key(kind, user_id).encode() for kind in _OF_A_USER]
        own = _literally(self._key("feedback", f"{user_id}\0"))
        gone += self._redis.scan_iter(match=f"{own}*", count=1_000)
        page: list[bytes] = []
        predictions = _literally(self._key("prediction", ""))
        for key in self._redis.scan_iter(match=f"{predictions}*", count=1_000):
            page.append(key)
            if len(page) == _PAGE:
                gone += self._predictions_of(user_id, page)
                page = []
        gone += self._predictions_of(user_id, page)
        removed = sum(
            self._redis.unlink(*gone[start : start + _PAGE]) for start in range(0, len(gone), _PAGE)
        )
        # A replica may remember the user for when Redis is away.
        self._redis.xadd(
            f"{self._prefix}:forgotten", {"user": digest(user_id)}, maxlen=FORGOTTEN_LENGTH
        )
        return removed

    def forgotten(self, *, after: str) -> tuple[list[str], str]:
        """`digest` of users who were forgotten behind `after` ("0-0": all), and the newest id."""
        found = cast(Any, self._redis.xrange(f"{self._prefix}:forgotten", f"({after}", "+"))
        users = [fields[b"user"].decode() for _, fields in found]
        return users, found[-1][0].decode() if found else after

    def _predictions_of(self, user_id: str, keys: list[bytes]) -> list[bytes]:
        if not keys:
            return []
        records = cast(list[bytes | None], self._redis.mget(keys))
        prefix = self._key("prediction", "").encode()
        # What the error memory keeps beside a prediction until its outcome is known.
        beside = [self._key(kind, "").encode() for kind in ("prediction", "served", "taken")]
        return [
            kind + key.removeprefix(prefix)
            for key, raw in zip(keys, records, strict=True)
            if raw is not None and orjson.loads(raw)[0] == user_id
            for kind in beside
        ]

    def sample_users(self, n: int) -> list[str]:
        """Ids of up to `n` users who have a history, in no order."""
        prefix = self._key("history", "")
        found: list[str] = []
        for key in self._redis.scan_iter(match=f"{_literally(prefix)}*", count=1_000):
            found.append(key.decode()[len(prefix) :])
            if len(found) == n:
                break
        return found

    def put_predictions(self, predictions: Iterable[StoredPrediction], *, ttl_s: int) -> None:
        """Keep each of `predictions` for `ttl_s` seconds, in one round trip."""
        prefix = self._key("prediction", "")
        packed = {prefix + each.prediction_id: each.pack() for each in predictions}
        self._values.keep(packed, ttl_s=ttl_s)

    def get_prediction(self, prediction_id: str) -> StoredPrediction | None:
        """The prediction, or None when it never was or has expired."""
        raw: Any = self._redis.get(self._key("prediction", prediction_id))
        if raw is None:
            return None
        return StoredPrediction.unpack(prediction_id, raw)

    def named_by(self, key_id: str | None) -> str | None:
        """Which key names the users of this store (None: they go by their ids): that of whoever
        asked first, which is `key_id` where nobody had."""
        name, nobodys = f"{self._prefix}:user-key", "none"
        self._redis.set(name, key_id or nobodys, nx=True)
        found = cast(bytes, self._redis.get(name)).decode()
        return None if found == nobodys else found

    def materialise(
        self,
        histories: Iterable[tuple[str, Sequence[Event]]],
        features: Mapping[str, Mapping[str, Any]],
        *,
        batch_size: int = 1_000,
    ) -> Materialised:
        """Load offline histories (each oldest first) and features.

        A user who already has a history online keeps it: what happened since the offline tables
        were written must not be lost.
        """
        loaded = n_users = 0
        pipeline = self._redis.pipeline(transaction=False)
        for n_users, (user_id, events) in enumerate(histories, start=1):
            if user_id in features:
                pipeline.set(self._key("features", user_id), orjson.dumps(features[user_id]))
            self._fill(pipeline, user_id, events)
            if n_users % batch_size == 0:
                loaded += pipeline.execute().count(_LOADED)
        loaded += pipeline.execute().count(_LOADED)
        return Materialised(loaded=loaded, kept=n_users - loaded)

    def _fill(self, pipeline: Any, user_id: str, events: Sequence[Event]) -> None:
        newest_first = [event.pack() for event in reversed(events[-HISTORY_LENGTH:])]
        keys = self._key("history", user_id), self._key("revision", user_id)
        pipeline.eval(_FILL, len(keys), *keys, *newest_first)

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"


def _read(user_ids: Sequence[str], answers: Sequence[Any]) -> Iterator[tuple[str, StoredUser]]:
    """Of each user, what the script that reads returned."""
    columns = (answers[column :: len(_OF_A_USER)] for column in range(len(_OF_A_USER)))
    for user_id, history, features, hidden, revision in zip(user_ids, *columns, strict=True):
        yield user_id, StoredUser(history, features or b"", tuple(hidden), revision or b"")


def digest(user_id: str) -> str:
    """A user who must not be named any more."""
    return hashlib.blake2b(user_id.encode(), digest_size=16).hexdigest()


def _literally(text: str) -> str:
    """`text` as a pattern of Redis that matches only itself."""
    return "".join(f"\\{each}" if each in "*?[]\\" else each for each in text)
