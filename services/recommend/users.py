"""What is known of a user, also while Redis is away."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any

import orjson
import redis

from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.offline import FeedbackRecord, Spool
from feature_store.online import Event, OnlineStore, StoredPrediction, StoredUser, digest

REMEMBERED_USERS = 10_000
# After so long a user is read in full, whatever the revision: a process of an earlier release does
# not tell it, nor does somebody who mends a history by hand.
_TRUSTED_S = 30.0
NOBODY = StoredUser()


class KnownUser:
    """A user as stored; `degraded` when that may be stale or missing.

    Attributes:
        understood: what a catalogue made of it, kept for the user's next request.
        placed: where a version put the user, kept likewise.
        read_at: when it was read in full, on the monotonic clock.
    """

    __slots__ = ("degraded", "placed", "read_at", "stored", "understood")

    def __init__(
        self,
        stored: StoredUser = NOBODY,
        *,
        degraded: bool = False,
        understood: Any = None,
        placed: Any = None,
        read_at: float = 0.0,
    ) -> None:
        self.stored, self.degraded = stored, degraded
        self.understood, self.placed = understood, placed
        self.read_at = read_at

    @property
    def events(self) -> list[Event]:
        """The history, newest first."""
        return self.stored.read().events

    @property
    def features(self) -> dict[str, Any]:
        """As in the users table."""
        raw = self.stored.features
        return orjson.loads(raw) if raw else {}

    @property
    def hidden(self) -> tuple[str, ...]:
        """Items that the user does not want."""
        return tuple(item_id.decode() for item_id in self.stored.hidden)


class Users:
    """The online store behind a circuit breaker, with a memory of the users seen last.

    After a failure Redis is left alone until `check`, on a thread of its own, has found it well: a
    dead or stalled server costs one request one time-out, and the others nothing. Feedback that
    cannot be delivered waits in the spool, and what comes after it queues behind it; `check`
    replays the queue, and no request waits for that.
    """

    def __init__(
        self,
        store: OnlineStore,
        spool: Spool,
        *,
        learn: Callable[[FeedbackRecord], None] = lambda _: None,
        forget: Callable[[Collection[str]], None] = lambda _: None,
    ) -> None:
        """`learn`: is told each feedback that reaches Redis, perhaps more than once; `forget`: the
        `digest` of users who were forgotten."""
        self._store = store
        self._learn = learn
        self._forget_beside = forget
        self._spool = spool
        self._available = True
        self._remembered: OrderedDict[str, KnownUser] = OrderedDict()
        self._lock = threading.Lock()
        self._forgotten = "0-0"

    @property
    def available(self) -> bool:
        """Whether Redis answered when it was last asked."""
        return self._available

    def check(self) -> bool:
        """Ask Redis now, and deliver what waits."""
        try:
            self._forget(*self._store.forgotten(after=self._forgotten))
            self._spool.replay(self._deliver)
        except redis.RedisError:
            self._available = False
            return False
        self._available = True
        return True

    def get(
        self,
        user_ids: Sequence[str],
        meanwhile: Callable[[list[KnownUser]], None] | None = None,
    ) -> list[KnownUser]:
        """What is known of each user, in one round trip; nothing for an unknown one.

        Where all of them are remembered, `meanwhile` is called with what they were, while Redis is
        asked whether they still are: those of whom nothing is new are the same objects.
        """
        if not user_ids:
            return []
        if self.available:
            now = time.monotonic()
            trusted = self._trusted(user_ids, now)
            stored = {user_id: user.stored for user_id, user in trusted.items()}

            def guess() -> None:
                if meanwhile is not None:
                    meanwhile([trusted[user_id] for user_id in user_ids])

            try:
                found = self._store.stored(user_ids, stored, meanwhile=guess)
            except redis.RedisError:
                self._available = False
            else:
                return self._remember(user_ids, found, now)
        with self._lock:
            last = [self._remembered.get(user_id) or KnownUser() for user_id in user_ids]
        return [
            KnownUser(each.stored, degraded=True, understood=each.understood, placed=each.placed)
            for each in last
        ]

    def sample(self, n: int) -> list[str] | None:
        """Up to `n` users who have a history; None while Redis is away."""
        if self.available:
            try:
                return self._store.sample_users(n)
            except redis.RedisError:
                self._available = False
        return None

    def named_by(self, key_id: str | None) -> str | None:
        """See `OnlineStore.named_by`.

        Raises:
            redis.RedisError: the server is gone.
        """
        return self._store.named_by(key_id)

    def keep_predictions(self, predictions: Sequence[StoredPrediction], *, ttl_s: int) -> bool:
        """Keep what was served for its outcome, for `ttl_s` seconds; False when Redis is away."""
        if not self.available:
            return False
        try:
            self._store.put_predictions(predictions, ttl_s=ttl_s)
        except redis.RedisError:
            self._available = False
            return False
        return True

    def prediction(self, prediction_id: str) -> StoredPrediction | None:
        """What was served under this id, if it is still kept and Redis answers."""
        if not self.available:
            return None
        try:
            return self._store.get_prediction(prediction_id)
        except redis.RedisError:
            self._available = False
            return None

    def apply(self, record: FeedbackRecord) -> bool | None:
        """Put feedback into the user's history.

        Returns:
            True when it was applied, False when this feedback_id had been, None when it waits.
        """
        if self.available and self._spool.empty:
            try:
                return self._deliver(record)
            except redis.RedisError:
                self._available = False
        self._spool.append(record)
        return None

    def _deliver(self, record: FeedbackRecord) -> bool:
        event = Event(record.item_id, record.timestamp_ms, record.type, record.weight)
        applied = self._store.append(
            record.user_id,
            event,
            feedback_id=record.feedback_id,
            hide=record.type in NEGATIVE_SIGNALS,
        )
        # Also after a duplicate: a process may have died between the two.
        self._learn(record)
        return applied

    def _trusted(self, user_ids: Sequence[str], now: float) -> dict[str, KnownUser]:
        """Those who are remembered, and need not be read unless their revision says so."""
        remembered = self._remembered
        with self._lock:
            return {
                user_id: user
                for user_id in user_ids
                if (user := remembered.get(user_id)) is not None and now < user.read_at + _TRUSTED_S
            }

    def _remember(
        self, user_ids: Sequence[str], found: Sequence[StoredUser], now: float
    ) -> list[KnownUser]:
        """The users, those of whom nothing is new as they were."""
        known, remembered = [], self._remembered
        with self._lock:
            for user_id, stored in zip(user_ids, found, strict=True):
                user = remembered.get(user_id)
                if user is None or user.stored != stored:
                    user = remembered[user_id] = KnownUser(stored, read_at=now)
                elif user.stored is not stored:
                    user.read_at = now
                remembered.move_to_end(user_id)
                known.append(user)
            while len(remembered) > REMEMBERED_USERS:
                remembered.popitem(last=False)
        return known

    def _forget(self, users: Sequence[str], newest: str) -> None:
        if users:
            with self._lock:
                for user_id in [each for each in self._remembered if digest(each) in users]:
                    del self._remembered[user_id]
            self._forget_beside(users)
        self._forgotten = newest
