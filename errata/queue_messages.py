"""Labels from a partitioned queue, under the interface that labels from a Redis Stream have."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import orjson

from feature_store.online.messages import Message
from feature_store.queues import Delivery, QueueReader, QueueWriter


class QueueMessages:
    """See `MessageSource`: a payload is a body of `POST /v1/feedback`, in JSON.

    A queue gives a message to a reader once, and acknowledging one may acknowledge all before it.
    So what is not done is kept here and given again, and a message is acknowledged once all those
    before it in its partition are.

    Raises `QueueUnavailableError` when the broker is gone.
    """

    def __init__(
        self,
        name: str,
        reader: Callable[[], QueueReader],
        rejected: Callable[[], QueueWriter],
        *,
        again_after_s: float = 1.0,
        kept: int = 512,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Opens nothing: `reader` is called at the first read, `rejected` when there is something
        to set aside.

        Args:
            again_after_s: until a message that was not acknowledged is given again.
            kept: so many that are not acknowledged, and no more are read.
        """
        self._name, self._open_reader, self._open_rejected = name, reader, rejected
        self._again_s, self._kept, self._monotonic = again_after_s, kept, monotonic
        self._reader: QueueReader | None = None
        self._rejected: QueueWriter | None = None
        # What was read and is not acknowledged at the broker, in the order of reading.
        self._waiting: dict[str, Delivery] = {}
        self._given: dict[str, float] = {}
        self._done: set[str] = set()

    @property
    def name(self) -> str:
        """See `MessageSource`."""
        return self._name

    def read(self, *, block_ms: int) -> Sequence[Message]:
        """See `MessageSource`."""
        if self._reader is None:
            self._reader = self._open_reader()
        if due := self._due():
            return self._give(due)
        if len(self._waiting) >= self._kept:
            time.sleep(block_ms / 1e3)
            return []
        found = self._reader.read(timeout_s=block_ms / 1e3)
        for each in found:
            self._waiting[_id(each)] = each
        return self._give([each for each in map(_id, found) if each not in self._done])

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """See `MessageSource`."""
        self._done.update(each.id for each in messages if each.id in self._waiting)
        done: list[str] = []
        held: set[int] = set()
        for name, delivery in self._waiting.items():
            if name not in self._done:
                held.add(delivery.partition)
            elif delivery.partition not in held:
                done.append(name)
        if not done or self._reader is None:
            return
        self._reader.acknowledge([self._waiting[name] for name in done])
        for name in done:
            del self._waiting[name]
            self._given.pop(name, None)
        self._done.difference_update(done)

    def set_aside(self, message: Message, reason: str) -> None:
        """See `MessageSource`."""
        if self._rejected is None:
            self._rejected = self._open_rejected()
        said = message.fields["json"].decode(errors="backslashreplace")
        self._rejected.write(0, orjson.dumps({"id": message.id, "reason": reason, "message": said}))
        self._rejected.flush()
        self.acknowledge([message])

    def close(self) -> None:
        """See `MessageSource`."""
        if self._reader is not None:
            self._reader.close()
        if self._rejected is not None:
            self._rejected.close()

    def _due(self) -> list[str]:
        before = self._monotonic() - self._again_s
        return [
            name
            for name in self._waiting
            if name not in self._done and self._given.get(name, before) <= before
        ]

    def _give(self, names: Sequence[str]) -> list[Message]:
        now = self._monotonic()
        self._given.update(dict.fromkeys(names, now))
        return [
            Message(name, {"json": each.payload}, each.written_ms)
            for name in names
            for each in (self._waiting[name],)
        ]


def _id(delivery: Delivery) -> str:
    return f"{delivery.partition}-{delivery.position}"
