"""Predictions on their way to Redis: kept for their outcome, and no answer waits for that."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
MAX_TOGETHER = 128
LINGER_S = 0.02


class Prediction(Protocol):
    """Something that was served."""

    @property
    def prediction_id(self) -> str:
        """The answer's id."""
        ...


P = TypeVar("P", bound=Prediction)


class PredictionKeeper(Generic[P]):
    """A thread that writes what waits, together; what waits can already be asked for.

    It lets `LINGER_S` of predictions come together: waking for each of them would cost every
    request more than its own work. Bounded: where Redis cannot keep up the newest predictions are
    not kept, and that is counted. An outcome that arrives at another process before the write finds
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
        self._waiting: dict[str, P] = {}
        self._some, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="predictions", daemon=True)
        self._thread.start()

    def keep(self, predictions: Sequence[P]) -> None:
        """Write these soon."""
        if not predictions:
            return
        free = max(MAX_WAITING - len(self._waiting), 0)
        for prediction in predictions[:free]:
            self._waiting[prediction.prediction_id] = prediction
        if len(predictions) > free:
            self._lost(len(predictions) - free)
        if not self._some.is_set():
            self._some.set()

    def waiting(self, prediction_id: str) -> P | None:
        """A prediction that is not written yet."""
        return self._waiting.get(prediction_id)

    def close(self) -> None:
        """Write what waits, then stop."""
        self._closing.set()
        self._some.set()
        self._thread.join()

    def _work(self) -> None:
        closing = False
        while not closing:
            self._some.wait()
            closing = self._closing.wait(LINGER_S)
            self._some.clear()
            self._keep_waiting()

    def _keep_waiting(self) -> None:
        # Copied at one stroke: requests add to it meanwhile.
        waiting = list(self._waiting.values())
        for start in range(0, len(waiting), MAX_TOGETHER):
            self._keep_now(waiting[start : start + MAX_TOGETHER])

    def _keep_now(self, together: list[P]) -> None:
        try:
            kept = self._write(together)
        except Exception:  # the thread must outlive it: later ones are to be kept
            log.exception("%s predictions were not kept", len(together))
            kept = False
        if not kept:
            self._lost(len(together))
        for each in together:
            self._waiting.pop(each.prediction_id, None)
