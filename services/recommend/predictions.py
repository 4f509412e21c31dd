"""Predictions on their way to Redis: kept for their outcome, and no answer waits for that."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

MAX_WAITING = 10_000
MAX_TOGETHER = 128


class Prediction(Protocol):
    """Something that was served."""

    @property
    def prediction_id(self) -> str:
        """The answer's id."""
        ...


P = TypeVar("P", bound=Prediction)


class PredictionKeeper(Generic[P]):
    """A thread that writes what waits in one round trip; what waits can already be asked for.

    Bounded: where Redis cannot keep up the newest predictions are not kept, and that is counted.
    An outcome that arrives at another process within the millisecond before the write finds
    nothing, as for a prediction that has expired.
    """

    def __init__(
        self,
        write: Callable[[Sequence[P]], bool],
        *,
        lost: Callable[[int], None] = lambda _: None,
    ) -> None:
        """`write` keeps predictions and says whether it did; `lost` is told how many were not."""
        self._write, self._lost = write, lost
        self._queue: queue.SimpleQueue[P | None] = queue.SimpleQueue()
        self._waiting: dict[str, P] = {}
        self._thread = threading.Thread(target=self._work, name="predictions", daemon=True)
        self._thread.start()

    def keep(self, predictions: Sequence[P]) -> None:
        """Write these soon."""
        free = MAX_WAITING - len(self._waiting)
        for prediction in predictions[: max(free, 0)]:
            self._waiting[prediction.prediction_id] = prediction
            self._queue.put(prediction)
        if len(predictions) > free:
            self._lost(len(predictions) - max(free, 0))

    def waiting(self, prediction_id: str) -> P | None:
        """A prediction that is not written yet."""
        return self._waiting.get(prediction_id)

    def close(self) -> None:
        """Write what waits, then stop."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            together, more = self._take()
            if together:
                if not self._write(together):
                    self._lost(len(together))
                for each in together:
                    self._waiting.pop(each.prediction_id, None)
            if not more:
                return

    def _take(self) -> tuple[list[P], bool]:
        together: list[P] = []
        each = self._queue.get()
        while each is not None:
            together.append(each)
            if len(together) == MAX_TOGETHER:
                return together, True
            try:
                each = self._queue.get_nowait()
            except queue.Empty:
                return together, True
        return together, False
