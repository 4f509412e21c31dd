"""Requests that wait are computed together; one that comes alone is computed at once.

What has arrived by the time the event loop comes round is one batch, and an idle service adds no
wait. Just behind a batch of several the next one waits until as many have come again, for a
millisecond at most: who was answered together asks together, and a batch's first request costs as
much as several more. The batch is computed on the loop's own thread. Python
runs one thread at a time whatever their number, and a hand-over of its lock to another thread and
back cost more than the whole computation; several cores are used by several worker processes. So
that the loop is never away for long a batch is no larger than what is computed in a few
milliseconds. The queue is bounded, and a request that would not be answered by its deadline is
refused before it costs anything.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

# A batch's cost moves the estimate of the next one's by this share.
_FORGETTING = 0.1
# The loop does nothing else while a batch is computed.
_LONGEST_BATCH_S = 0.02
# A request may wait here for so much of its deadline: in a burst, and where the queue has not been
# short for a while, which is no burst but too many (the thought is CoDel's, Nichols and Jacobson
# 2012). Then each waits in its socket too, before it is read, and nobody sees that from here.
_IN_A_BURST, _STANDING = 0.5, 0.15
_STANDS_AFTER_S = 0.3
# So long behind a batch its clients may be about to ask again, and so long they are waited for.
_GATHERING_S = 0.001


class OverloadedError(Exception):
    """The request was refused, or its deadline passed; asking again after `retry_after_s` may work.

    Attributes:
        reason: `queue` when too many wait, `deadline` when it came too late.
    """

    def __init__(self, reason: str, *, retry_after_s: int = 1) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_s = retry_after_s


@dataclass(slots=True)
class _Job(Generic[Asked, Answer]):
    asked: Asked
    deadline: float
    future: asyncio.Future[Answer] = field(repr=False)


class Batcher(Generic[Asked, Answer]):
    """Runs a function of many requests between two rounds of the event loop that asks.

    Example:
        >>> batcher = Batcher(lambda numbers: [n * n for n in numbers])   # doctest: +SKIP
        >>> await batcher.ask(3)
        9
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Asked]], Sequence[Answer | BaseException]],
        *,
        max_batch: int = 16,
        max_queue: int = 512,
        deadline_s: float = 0.25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`compute` answers each of its requests, or gives the exception to raise for it."""
        self._compute = compute
        self._max_batch, self._max_queue = max_batch, max_queue
        self._deadline_s, self._clock = deadline_s, clock
        self._waiting: deque[_Job[Asked, Answer]] = deque()
        self._due = False
        self._timer: asyncio.TimerHandle | None = None
        self._gathered, self._finished = 0, -math.inf
        # When no more than a batch waited for the last time.
        self._short_at = 0.0
        self._seconds_per_request = 0.0

    @property
    def depth(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def ask(self, asked: Asked) -> asyncio.Future[Answer]:
        """The answer, later; on the running loop.

        Raises:
            OverloadedError: too many wait, or they would take longer than the deadline.
        """
        depth = len(self._waiting)
        now = self._clock()
        short = depth <= self._max_batch
        if depth >= self._max_queue or (not short and self._too_long(depth, now)):
            raise OverloadedError("queue")
        if short:
            self._short_at = now
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append(_Job(asked, now + self._deadline_s, future))
        if depth + 1 >= self._gathered or now >= self._finished + _GATHERING_S:
            self._soon(loop)
        elif self._timer is None and not self._due:
            self._timer = loop.call_later(_GATHERING_S, self._round, loop)
        return future

    def _too_long(self, depth: int, now: float) -> bool:
        """Whether who comes behind `depth` others would wait longer than is allowed."""
        stands = now > self._short_at + _STANDS_AFTER_S
        allowed_s = (_STANDING if stands else _IN_A_BURST) * self._deadline_s
        return depth * self._seconds_per_request > allowed_s

    def _soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compute as soon as the loop comes round."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._due:
            self._due = True
            loop.call_soon(self._round, loop)

    def _round(self, loop: asyncio.AbstractEventLoop) -> None:
        """Compute one batch; what is left waits for the loop to come round again."""
        self._timer = None
        batch = self._take()
        if batch:
            self._answer(batch)
            self._gathered, self._finished = len(batch), self._clock()
        self._due = bool(self._waiting)
        if self._due:
            loop.call_soon(self._round, loop)

    def _take(self) -> list[_Job[Asked, Answer]]:
        """What is computed next: of what waits, that which somebody still wants in time."""
        size = self._max_batch
        if self._seconds_per_request > 0:
            size = min(size, max(int(_LONGEST_BATCH_S / self._seconds_per_request), 1))
        batch: list[_Job[Asked, Answer]] = []
        now = self._clock()
        while self._waiting and len(batch) < size:
            job = self._waiting.popleft()
            if job.future.done():  # its client has gone
                continue
            if now >= job.deadline:
                job.future.set_exception(OverloadedError("deadline"))
                continue
            batch.append(job)
        return batch

    def _answer(self, batch: list[_Job[Asked, Answer]]) -> None:
        started = self._clock()
        outcomes: Sequence[Answer | BaseException]
        try:
            outcomes = self._compute([job.asked for job in batch])
        except Exception as error:  # one caller's failure must not end the rounds
            log.exception("a batch of %s failed", len(batch))
            outcomes = [error] * len(batch)
        finished = self._clock()
        self._learn((finished - started) / len(batch))
        for job, outcome in zip(batch, outcomes, strict=True):
            _deliver(job, OverloadedError("deadline") if finished >= job.deadline else outcome)

    def _learn(self, seconds: float) -> None:
        before = self._seconds_per_request or seconds
        self._seconds_per_request = before + _FORGETTING * (seconds - before)


def _deliver(job: _Job[Any, Any], outcome: object) -> None:
    if isinstance(outcome, BaseException):
        job.future.set_exception(outcome)
    else:
        job.future.set_result(outcome)
