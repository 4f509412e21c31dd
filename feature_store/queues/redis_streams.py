"""The queue on Redis Streams: a stream a partition, and one consumer group.

An acknowledged message is deleted, so that a stream's length is what is left to do and memory is
bounded by `max_messages`; a queue has one group for that reason. Any reader takes from any
partition. What a reader took and did not acknowledge within `claim_after_s` is claimed by another.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from feature_store.queues.queue import Delivery, Lag, QueueFullError, QueueUnavailableError

GROUP = "readers"
FIELD = b"message"
MAX_MESSAGES = 1_000  # a partition
MESSAGES_A_READ = 8
CLAIM_AFTER_S = 30.0
# A read waits no longer than this at once: the client's own time-out must not end it.
LONGEST_WAIT_S = 0.5

# A writer that looked first and wrote then would overshoot with every other writer.
_WRITE = """
if redis.call('XLEN', KEYS[1]) >= tonumber(ARGV[1]) then return false end
return redis.call('XADD', KEYS[1], '*', 'message', ARGV[2])
"""


class RedisStreamsQueue:
    """Names and the number of partitions of one queue."""

    def __init__(
        self, client: redis.Redis, name: str, *, partitions: int, tenant: str = "default"
    ) -> None:
        """Creates the queue with so many partitions, or takes it as it is.

        Args:
            client: with a time-out of more than `LONGEST_WAIT_S`.

        Raises:
            QueueUnavailableError: the server does not answer.
        """
        self.client = client
        self._name = f"errata:{tenant}:queue:{name}"
        with _translated():
            client.hsetnx(self._name, "partitions", partitions)
            found: Any = client.hget(self._name, "partitions")
            self.partitions = int(found)
            self.streams = [f"{self._name}:{each}" for each in range(self.partitions)]
            self.create_group()

    def create_group(self) -> None:
        """Where it is not there already; from the beginning of the streams."""
        for stream in self.streams:
            try:
                self.client.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except redis.ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise


class RedisStreamsWriter:
    """See `QueueWriter`."""

    def __init__(self, queue: RedisStreamsQueue, *, max_messages: int = MAX_MESSAGES) -> None:
        self.partitions = queue.partitions
        self._queue = queue
        self._max_messages = max_messages
        self._write = queue.client.register_script(_WRITE)

    def write(self, partition: int, payload: bytes) -> None:
        """See `QueueWriter`."""
        stream = self._queue.streams[partition]
        with _translated():
            written = self._write(keys=[stream], args=[self._max_messages, payload])
        if written is None:
            raise QueueFullError(f"{stream} holds {self._max_messages} messages")

    def flush(self) -> None:
        """See `QueueWriter`: every write has been answered."""

    def close(self) -> None:
        """See `QueueWriter`."""


class RedisStreamsReader:
    """See `QueueReader`."""

    def __init__(
        self,
        queue: RedisStreamsQueue,
        *,
        claim_after_s: float = CLAIM_AFTER_S,
        messages: int = MESSAGES_A_READ,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`messages` bounds one read, rounded up to one a partition."""
        self.name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._queue = queue
        self._redis = queue.client
        self._claim_after_ms = round(claim_after_s * 1000)
        self._count = max(1, messages // queue.partitions)
        self._monotonic = monotonic
        self._claim_at = 0.0

    def read(self, *, timeout_s: float) -> list[Delivery]:
        """See `QueueReader`."""
        with _translated():
            try:
                return self._claim() or self._new(min(timeout_s, LONGEST_WAIT_S))
            except redis.ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
                self._queue.create_group()  # the server came back without it
                return []

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """See `QueueReader`."""
        positions: dict[int, list[str]] = {}
        for each in deliveries:
            positions.setdefault(each.partition, []).append(each.position)
        with _translated():
            pipeline = self._redis.pipeline()  # a transaction: neither without the other
            for partition, theirs in positions.items():
                pipeline.xack(self._queue.streams[partition], GROUP, *theirs)
                pipeline.xdel(self._queue.streams[partition], *theirs)
            pipeline.execute()

    def lag(self) -> Lag:
        """See `QueueReader`."""
        with _translated():
            pipeline = self._redis.pipeline(transaction=False)
            for stream in self._queue.streams:
                pipeline.xlen(stream)
                pipeline.xpending(stream, GROUP)
            answers: list[Any] = pipeline.execute()
        left = sum(answers[::2])
        taken = sum(int(each["pending"]) for each in answers[1::2])
        return Lag(waiting=max(left - taken, 0), taken=taken)

    def close(self) -> None:
        """See `QueueReader`: what it took is claimed when `claim_after_s` is over."""
        try:
            for stream in self._queue.streams:
                mine: Any = self._redis.xpending_range(
                    stream, GROUP, min="-", max="+", count=1, consumername=self.name
                )
                if not mine:  # with it, its messages would go
                    self._redis.xgroup_delconsumer(stream, GROUP, self.name)
        except redis.RedisError:
            return  # the name stays in the group, and nothing else

    def _claim(self) -> list[Delivery]:
        """What others left, looked for twice within the time that makes it so."""
        if self._monotonic() < self._claim_at:
            return []
        self._claim_at = self._monotonic() + self._claim_after_ms / 2000
        pipeline = self._redis.pipeline(transaction=False)
        for stream in self._queue.streams:
            pipeline.xautoclaim(
                stream, GROUP, self.name, min_idle_time=self._claim_after_ms, count=self._count
            )
        answers: list[Any] = pipeline.execute()
        found = [
            delivery
            for partition, (_, entries, *_) in enumerate(answers)
            for delivery in _deliveries(partition, entries, again=True)
        ]
        if found:  # there may be more
            self._claim_at = 0.0
        return found

    def _new(self, timeout_s: float) -> list[Delivery]:
        answers: Any = self._redis.xreadgroup(
            GROUP,
            self.name,
            dict.fromkeys(self._queue.streams, ">"),
            count=self._count,
            block=max(1, round(timeout_s * 1000)),
        )
        places = {name.encode(): place for place, name in enumerate(self._queue.streams)}
        return [
            delivery
            for stream, entries in answers or []
            for delivery in _deliveries(places[stream], entries)
        ]


def _deliveries(partition: int, entries: Any, *, again: bool = False) -> Iterator[Delivery]:
    for position, fields in entries:
        name = position.decode()
        yield Delivery(partition, name, fields[FIELD], int(name.split("-")[0]), again)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        raise QueueUnavailableError(f"Redis does not take part in the queue: {error}") from error
