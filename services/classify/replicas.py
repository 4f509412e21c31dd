"""What one replica says of flows, for the others: whoever is asked knows what any of them saw.

errata:TENANT:recent      the newest final verdicts, with what tells flows alike
errata:TENANT:verdicts    a channel: all verdicts, as they are made, while somebody listens

Replicas are the workers of `errata serve --workers N`, other machines' services, and sensors: all
that share a Redis and a tenant.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import orjson
import redis

from services.classify.neighbours import KEPT, RecentFlows
from services.classify.retry import RETRY_S, Retry
from services.classify.verdict import Verdict

# How long it may take a replica that speaks to notice that another one listens.
LOOK_EVERY_S = 0.05
_WAIT_S = 0.2
_ORIGIN_BYTES = 8
# Of a message in the channel: a slow reader loses little when its connection is cut.
_TOGETHER = 512


class RecentStream:
    """The newest final verdicts of all replicas, in a capped Redis Stream.

    Raises `redis.RedisError` when the server is gone.
    """

    def __init__(
        self, client: redis.Redis, *, tenant: str, kept: int = KEPT, ttl_s: int = 3 * 3600
    ) -> None:
        """`ttl_s`: the stream goes when nothing was added for so long."""
        self._redis = client
        self._key = f"errata:{tenant}:recent"
        self._kept = kept
        self._ttl_s = ttl_s
        self._read = "-"
        self._lock = threading.Lock()

    def add(self, pipeline: Any, verdicts: Sequence[Verdict]) -> None:
        """Append final verdicts with the commands of `pipeline`."""
        for each in verdicts:
            fields: dict[Any, Any] = {
                "verdict": orjson.dumps(each.to_json()),
                "own": each.own.astype("<f4").tobytes(),
                "hidden": each.hidden.astype("<f4").tobytes(),
            }
            pipeline.xadd(self._key, fields, maxlen=self._kept, approximate=True)
        if verdicts:
            pipeline.expire(self._key, self._ttl_s)

    def bring(self, flows: RecentFlows) -> None:
        """Add what any replica added since the last call."""
        with self._lock:
            found: Any = self._redis.xrange(self._key, min=self._read)
            if not found:
                return
            self._read = f"({found[-1][0].decode()}"
            flows.write(
                [
                    Verdict.from_json(
                        orjson.loads(fields[b"verdict"]),
                        own=np.frombuffer(fields[b"own"], "<f4"),
                        hidden=np.frombuffer(fields[b"hidden"], "<f4"),
                    )
                    for _, fields in found
                ]
            )


class Relay:
    """Tells the other replicas' listeners of this one's verdicts, and this one's of theirs.

    Nothing is sent while nobody listens elsewhere, and nobody is listened to while nobody listens
    here. Without Redis each replica's listeners hear of its own verdicts alone.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        tenant: str,
        hear: Callable[[Sequence[Verdict]], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`hear`: is told of the other replicas' verdicts, on a thread of the relay."""
        self._redis = client
        self._channel = f"errata:{tenant}:verdicts"
        self._hear = hear
        self._monotonic = monotonic
        self._origin = os.urandom(_ORIGIN_BYTES)
        self._look_at = 0.0
        self._retry = Retry(monotonic)
        self._wanted = False
        self._listeners = 0
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._listening = threading.Event()
        self._closed = threading.Event()

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """See `Sink`; dropped when the server is gone."""
        if not verdicts or not self._is_wanted():
            return
        try:
            with self._retry.asking():
                for first in range(0, len(verdicts), _TOGETHER):
                    told = [each.to_json() for each in verdicts[first : first + _TOGETHER]]
                    self._redis.publish(self._channel, self._origin + orjson.dumps(told))
        except redis.RedisError:
            self._wanted = False

    def join(self) -> None:
        """Another listener here."""
        with self._lock:
            self._listeners += 1
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(
                    target=self._listen, name="errata-relay", daemon=True
                )
                self._thread.start()

    def wait(self) -> None:
        """Until the other replicas are heard and know it, or have been waited for in vain."""
        if self._listening.wait(RETRY_S):
            self._closed.wait(LOOK_EVERY_S)

    def leave(self) -> None:
        """A listener has gone."""
        with self._lock:
            self._listeners -= 1

    def close(self) -> None:
        """See `Sink`."""
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join()

    def _is_wanted(self) -> bool:
        """Whether somebody listens elsewhere, as it was at the last look."""
        now = self._monotonic()
        if now >= self._look_at and self._retry.is_due:
            self._look_at = now + LOOK_EVERY_S
            try:
                with self._retry.asking():
                    ((_, listening),) = self._redis.pubsub_numsub(self._channel)
                self._wanted = listening > self._listening.is_set()
            except redis.RedisError:
                self._wanted = False
        return self._wanted

    def _listen(self) -> None:
        while not self._closed.is_set() and not self._given_up():
            try:
                with self._redis.pubsub() as channel:  # type: ignore[no-untyped-call]
                    channel.subscribe(self._channel)
                    self._follow(channel)
            except redis.RedisError:
                self._listening.clear()
                self._closed.wait(RETRY_S)

    def _follow(self, channel: redis.client.PubSub) -> None:
        """While there are listeners."""
        while not self._closed.is_set():
            message: Any = channel.get_message(timeout=_WAIT_S)
            if message is None:
                if self._given_up():
                    return
            elif message["type"] == "subscribe":
                self._listening.set()
            elif not message["data"].startswith(self._origin):
                told = orjson.loads(message["data"][_ORIGIN_BYTES:])
                self._hear([Verdict.from_json(each) for each in told])

    def _given_up(self) -> bool:
        """Whether there is no listener; another one starts another thread then."""
        with self._lock:
            if self._listeners:
                return False
            self._listening.clear()
            self._thread = None
            return True
