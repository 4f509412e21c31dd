"""Hands verdicts from the thread that makes them to everyone who listens."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from services.classify.verdict import Verdict


class Subscription:
    """One listener's verdicts: a bounded queue that drops its oldest when nobody reads.

    Attributes:
        dropped: verdicts that this listener was too slow for.
    """

    def __init__(self, *, length: int, final_only: bool) -> None:
        self.dropped = 0
        self._final_only = final_only
        self._waiting: deque[Verdict] = deque(maxlen=length)
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._lock = threading.Lock()
        self._closed = False

    def push(self, verdicts: Sequence[Verdict]) -> None:
        """Called from any thread."""
        with self._lock:
            for verdict in verdicts:
                if verdict.final or not self._final_only:
                    self.dropped += len(self._waiting) == self._waiting.maxlen
                    self._waiting.append(verdict)
            news = bool(self._waiting)
        if news:
            self._wake()

    def close(self) -> None:
        """Nothing more comes; called from any thread."""
        self._closed = True
        self._wake()

    async def next(self, timeout_s: float) -> list[Verdict] | None:
        """What came since the last call: an empty list when nothing did for `timeout_s`, None
        when there is nothing more."""
        if not self._closed:
            try:
                await asyncio.wait_for(self._news.wait(), timeout_s)
            except TimeoutError:
                return []
            self._news.clear()
        with self._lock:
            verdicts = list(self._waiting)
            self._waiting.clear()
        return None if self._closed and not verdicts else verdicts

    def _wake(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._news.set)
        except RuntimeError:  # the loop ended before its listener did
            self._closed = True


class Hub:
    """A sink that any number of listeners can join and leave."""

    def __init__(self, *, length: int = 4096) -> None:
        """`length`: verdicts that may wait for a slow listener."""
        self._length = length
        self._subscriptions: set[Subscription] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __len__(self) -> int:
        """Listeners."""
        return len(self._subscriptions)

    @contextmanager
    def subscribe(self, *, final_only: bool = False) -> Iterator[Subscription]:
        """Listen for the length of the block; called from an event loop."""
        subscription = Subscription(length=self._length, final_only=final_only)
        with self._lock:
            self._subscriptions.add(subscription)
        if self._closed:
            subscription.close()
        try:
            yield subscription
        finally:
            with self._lock:
                self._subscriptions.discard(subscription)

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """See `Sink`."""
        with self._lock:
            subscriptions = list(self._subscriptions)
        if verdicts:
            for subscription in subscriptions:
                subscription.push(verdicts)

    def close(self) -> None:
        """See `Sink`: every listener's stream ends."""
        self._closed = True
        with self._lock:
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            subscription.close()
