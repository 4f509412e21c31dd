"""Long work beside short answers: a little at a time, and never much of a core."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# Called between two pieces of long work.
Pause = Callable[[], None]

# What long work in a service may have of a core while others are answered.
BESIDE_ANSWERS = 0.15
# A piece of work that is shorter is not worth a pause of its own.
_PIECE_S = 0.0015


def no_pause() -> None:
    """Go on: nobody else waits for the processor."""


class Unhurried:
    """Sleeps between pieces of work so long that they get `share` of one core and no more.

    Whoever answers meanwhile waits for one piece at most. A low priority would not do that: the
    thread would be put off while it holds the interpreter, and everybody would wait for it.

    Belongs to the thread that calls it. Work that its thread leaves to others is not counted.
    """

    def __init__(self, share: float, *, hurry: threading.Event | None = None) -> None:
        """`share` in (0, 1]; once `hurry` is set there are no more pauses.

        Raises:
            ValueError: it is not.
        """
        if not 0 < share <= 1:
            raise ValueError(f"a share of a core is above 0 and at most 1, not {share}")
        self._rest = (1 - share) / share
        self._hurry = hurry or threading.Event()
        self._since = time.thread_time()

    def __call__(self) -> None:
        """Sleep for as long as the work since the last sleep asks for."""
        worked = time.thread_time() - self._since
        if worked < _PIECE_S:
            return
        self._hurry.wait(worked * self._rest)
        self._since = time.thread_time()
