"""Requests that wait are computed together; one that comes alone is computed at once.

A thread that becomes free takes everything that waits, up to a bound: under load batches form by
themselves, and an idle service adds no wait. The queue is bounded, and a request that would not be
answered by its deadline is refused before it costs anything.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")

# A batch's cost moves the estimate of the next one's by this share.
_FORGETTING = 0.1


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
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Answer] = field(repr=False)
    outcome: Answer | BaseException | None = None


class Batcher(Generic[Asked, Answer]):
    """Runs a function of many requests in a bounded pool of threads.

    Example:
        >>> batcher = Batcher(lambda numbers: [n * n for n in numbers])   # doctest: +SKIP
        >>> await batcher.ask(3)
        9
    """

    def __init__(
        self,
        compute: Callable[[Sequence[Asked]], Sequence[Answer | BaseException]],
        *,
        threads: int = 2,
        max_batch: int = 16,
        max_queue: int = 512,
        deadline_s: float = 0.25,
        prepare_thread: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`compute` answers each of its requests, or gives the exception to raise for it."""
        self._compute = compute
        self._max_batch, self._max_queue = max_batch, max_queue
        self._deadline_s, self._clock = deadline_s, clock
        self._prepare_thread = prepare_thread
        self._in_next_batches = threads * max_batch
        self._waiting: queue.SimpleQueue[_Job[Asked, Answer] | None] = queue.SimpleQueue()
        self._seconds_per_request = 0.0
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """How many requests wait."""
        return self._waiting.qsize()

    def close(self) -> None:
        """Finish what waits, then stop."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def ask(self, asked: Asked) -> asyncio.Future[Answer]:
        """The answer, later; on the running loop.

        Raises:
            OverloadedError: too many wait, or they would take longer than the deadline.
        """
        depth = self._waiting.qsize()
        wait_s = depth * self._seconds_per_request
        hopeless = depth > self._in_next_batches and wait_s > self._deadline_s / 2
        if depth >= self._max_queue or hopeless:
            raise OverloadedError("queue")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.put(_Job(asked, self._clock() + self._deadline_s, loop, future))
        return future

    def _work(self) -> None:
        self._prepare_thread()
        while True:
            batch, more = self._take()
            if batch:
                self._answer(batch)
            if not more:
                return

    def _take(self) -> tuple[list[_Job[Asked, Answer]], bool]:
        """What waits, and whether there will be more."""
        batch: list[_Job[Asked, Answer]] = []
        job = self._waiting.get()
        while job is not None:
            batch.append(job)
            if len(batch) == self._max_batch:
                return batch, True
            try:
                job = self._waiting.get_nowait()
            except queue.Empty:
                return batch, True
        return batch, False

    def _answer(self, batch: list[_Job[Asked, Answer]]) -> None:
        started = self._clock()
        wanted = []
        for job in batch:
            if job.future.cancelled():
                job.outcome = asyncio.CancelledError()
            elif started >= job.deadline:
                job.outcome = OverloadedError("deadline")
            else:
                wanted.append(job)
        if wanted:
            try:
                outcomes = self._compute([job.asked for job in wanted])
            except Exception as error:  # one caller's failure must not end the thread
                log.exception("a batch of %s failed", len(wanted))
                outcomes = [error] * len(wanted)
            finished = self._clock()
            for job, outcome in zip(wanted, outcomes, strict=True):
                late = finished >= job.deadline
                job.outcome = OverloadedError("deadline") if late else outcome
            self._learn(finished - started, len(wanted))
        for loop in {job.loop for job in batch}:
            jobs = [job for job in batch if job.loop is loop]
            try:
                loop.call_soon_threadsafe(_deliver, jobs)
            except RuntimeError:  # the loop is closed: nobody waits any more
                log.warning("%s answers came after the server had stopped", len(jobs))

    def _learn(self, seconds: float, requests: int) -> None:
        each = seconds / requests / len(self._threads)
        before = self._seconds_per_request or each
        self._seconds_per_request = before + _FORGETTING * (each - before)


def _deliver(jobs: list[_Job[Any, Any]]) -> None:
    for job in jobs:
        if job.future.done():
            continue
        if isinstance(job.outcome, BaseException):
            job.future.set_exception(job.outcome)
        else:
            job.future.set_result(job.outcome)
