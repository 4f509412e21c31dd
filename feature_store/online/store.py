"""The online store: what serving knows about users, and the predictions that await an outcome."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import redis

HISTORY_LENGTH = 200
PREDICTION_TTL_S = 7 * 86_400
FEEDBACK_ID_TTL_S = 7 * 86_400

# One round trip, atomic: a feedback id counts once, and the history stays capped.
_APPEND = """
if ARGV[1] ~= '' and redis.call('EXISTS', KEYS[2]) == 1 then return 0 end
redis.call('LPUSH', KEYS[1], ARGV[4])
redis.call('LTRIM', KEYS[1], 0, ARGV[3] - 1)
if ARGV[1] ~= '' then redis.call('SET', KEYS[2], '1', 'EX', ARGV[2]) end
return 1
"""
_LOADED = b"loaded"


@dataclass(frozen=True, slots=True)
class Event:
    """Something a user did with an item.

    Attributes:
        item_id: the catalogue's id.
        timestamp_ms: milliseconds since the epoch; 0 where the data have no time.
        type: the signal, such as `click`, `view`, `dismiss`.
        weight: strength of the signal, above 0.
    """

    item_id: str
    timestamp_ms: int
    type: str = "interaction"
    weight: float = 1.0

    def pack(self) -> bytes:
        """The event as stored."""
        return orjson.dumps((self.item_id, self.timestamp_ms, self.type, self.weight))

    @classmethod
    def unpack(cls, raw: bytes) -> Event:
        """Inverse of `pack`."""
        return cls(*orjson.loads(raw))


@dataclass(frozen=True, slots=True)
class Materialised:
    """How many users got their offline history, and how many kept the one they had online."""

    loaded: int
    kept: int


@dataclass(frozen=True, slots=True)
class StoredPrediction:
    """What was served, kept until its outcome arrives or its time is up."""

    prediction_id: str
    user_id: str | None
    model_version: str
    items: tuple[str, ...]
    scores: tuple[float, ...]
    served_at_ms: int


class OnlineStore:
    """User histories, user features and waiting predictions in Redis, one tenant a key prefix.

    Every method is one round trip and raises `redis.RedisError` when the server is gone: the
    caller decides what a degraded answer is.
    """

    def __init__(self, client: redis.Redis, *, tenant: str = "default") -> None:
        """Keys begin with `errata:TENANT:`."""
        self._redis = client
        self._prefix = f"errata:{tenant}"
        self._append = client.register_script(_APPEND)

    def ping(self) -> None:
        """Raise `redis.RedisError` unless the server answers."""
        self._redis.ping()

    def append(self, user_id: str, event: Event, *, feedback_id: str = "") -> bool:
        """Put `event` at the head of the user's history; False if the user's `feedback_id` was
        seen before."""
        seen = self._key("feedback", f"{user_id}\0{feedback_id}")
        applied = self._append(
            keys=[self._key("history", user_id), seen],
            args=[feedback_id, FEEDBACK_ID_TTL_S, HISTORY_LENGTH, event.pack()],
        )
        return bool(applied)

    def user(self, user_id: str) -> tuple[list[Event], dict[str, Any]]:
        """The user's history, newest first, and features; both empty for an unknown user."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.lrange(self._key("history", user_id), 0, HISTORY_LENGTH - 1)
        pipeline.get(self._key("features", user_id))
        raw_events, raw_features = pipeline.execute()
        features = orjson.loads(raw_features) if raw_features else {}
        return [Event.unpack(raw) for raw in raw_events], features

    def put_prediction(
        self, prediction: StoredPrediction, *, ttl_s: int = PREDICTION_TTL_S
    ) -> None:
        """Keep `prediction` for `ttl_s` seconds."""
        record = (
            prediction.user_id,
            prediction.model_version,
            prediction.items,
            prediction.scores,
            prediction.served_at_ms,
        )
        key = self._key("prediction", prediction.prediction_id)
        self._redis.set(key, orjson.dumps(record), ex=ttl_s)

    def get_prediction(self, prediction_id: str) -> StoredPrediction | None:
        """The prediction, or None when it never was or has expired."""
        raw = self._redis.get(self._key("prediction", prediction_id))
        if raw is None:
            return None
        user_id, model_version, items, scores, served_at_ms = orjson.loads(raw)
        return StoredPrediction(
            prediction_id, user_id, model_version, tuple(items), tuple(scores), served_at_ms
        )

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
            self._fill(pipeline, user_id, events)
            if user_id in features:
                pipeline.set(self._key("features", user_id), orjson.dumps(features[user_id]))
            if n_users % batch_size == 0:
                loaded += pipeline.execute().count(_LOADED)
        loaded += pipeline.execute().count(_LOADED)
        return Materialised(loaded=loaded, kept=n_users - loaded)

    def _fill(self, pipeline: Any, user_id: str, events: Sequence[Event]) -> None:
        newest_first = [event.pack() for event in reversed(events[-HISTORY_LENGTH:])]
        pipeline.eval(
            "if redis.call('EXISTS', KEYS[1]) == 1 then return 'kept' end "
            "for i = 1, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end return 'loaded'",
            1,
            self._key("history", user_id),
            *newest_first,
        )

    def _key(self, kind: str, name: str) -> str:
        return f"{self._prefix}:{kind}:{name}"
