"""Messages that several consumers share, each handled at least once."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import redis


@dataclass(frozen=True)
class Message:
    """One message.

    Attributes:
        id: unique in its stream; the same again when it is delivered again.
        fields: what it says.
        sent_ms: when it was written, since the epoch.
    """

    id: str
    fields: dict[str, bytes]
    sent_ms: int


class MessageSource(Protocol):
    """Where messages come from: a Redis Stream here, a partitioned queue elsewhere.

    A message stays with the consumer group until it is acknowledged: one whose consumer died is
    given to another, and one that was read and not acknowledged is given again.
    """

    @property
    def name(self) -> str:
        """Of the stream."""
        ...

    def read(self, *, block_ms: int) -> Sequence[Message]:
        """New messages, or those that are due again; waits up to `block_ms` for some."""
        ...

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """These are done."""
        ...

    def set_aside(self, message: Message, reason: str) -> None:
        """This can never be done: keep it apart, with the reason, and acknowledge it."""
        ...

    def close(self) -> None:
        """Read no more; what was not acknowledged goes to others."""
        ...


class RedisMessages:
    """A consumer of a Redis Stream's group; see `MessageSource`.

    Raises `redis.RedisError` when the server is gone. What is set aside goes to `NAME:rejected`.
    """

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        *,
        group: str = "errata",
        consumer: str | None = None,
        again_after_s: float = 1.0,
        take_over_after_s: float = 30.0,
        at_once: int = 64,
        erase: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`again_after_s`: until an own message that was not acknowledged is given again;
        `take_over_after_s`: until another consumer's is; `erase`: delete what is done, so that
        other groups of the stream no longer find it."""
        self._redis, self._name, self._group = client, name, group
        self._consumer = consumer or f"{socket.gethostname()}-{os.getpid()}"
        self._again_s, self._take_over_s, self._at_once = again_after_s, take_over_after_s, at_once
        self._erase, self._monotonic = erase, monotonic
        self._looked = -again_after_s  # what an earlier life of this consumer left comes first
        self._ready = False

    @property
    def name(self) -> str:
        """See `MessageSource`."""
        return self._name

    def read(self, *, block_ms: int) -> Sequence[Message]:
        """See `MessageSource`."""
        if not self._ready:
            self._create()
        if self._monotonic() - self._looked >= self._again_s:
            self._looked = self._monotonic()
            self._take_over()
            if waiting := self._fetch("0", None):
                return waiting
        return self._fetch(">", block_ms)

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `MessageSource`."""
        if messages:
            pipeline = self._redis.pipeline(transaction=True)
            self._done(pipeline, [each.id for each in messages])
            pipeline.execute()

    def set_aside(self, message: Message, reason: str) -> None:
        """See `MessageSource`."""
        fields: dict[Any, Any] = {**message.fields, "reason": reason, "id": message.id}
        pipeline = self._redis.pipeline(transaction=True)
        pipeline.xadd(f"{self._name}:rejected", fields, maxlen=10_000, approximate=True)
        self._done(pipeline, [message.id])
        pipeline.execute()

    def close(self) -> None:
        """See `MessageSource`: the server notices silence, and the client is its owner's."""

    def _done(self, pipeline: Any, ids: Sequence[str]) -> None:
        pipeline.xack(self._name, self._group, *ids)
        if self._erase:
            pipeline.xdel(self._name, *ids)

    def _create(self) -> None:
        try:
            self._redis.xgroup_create(self._name, self._group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._ready = True

    def _fetch(self, after: str, block_ms: int | None) -> list[Message]:
        try:
            found: Any = self._redis.xreadgroup(
                self._group,
                self._consumer,
                {self._name: after},
                count=self._at_once,
                block=block_ms,
            )
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            self._ready = False  # the stream was deleted
            return []
        return [message for _, messages in found or [] for message in _messages(messages)]

    def _take_over(self) -> None:
        """What others left long ago becomes this consumer's own."""
        self._redis.xautoclaim(
            self._name,
            self._group,
            self._consumer,
            min_idle_time=int(self._take_over_s * 1_000),
            count=self._at_once,
            justid=True,
        )


def _messages(found: Any) -> list[Message]:
    return [
        Message(
            name.decode(),
            {key.decode(errors="backslashreplace"): value for key, value in fields.items()},
            int(name.split(b"-")[0]),
        )
        for name, fields in found
        if fields  # one that was trimmed away meanwhile has none
    ]
