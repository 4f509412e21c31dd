"""Flows like a flow, and what would be said of them now: how far a label reaches."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.classify.verdict import Verdict

FloatArray = NDArray[np.float32]
KEPT = 2_048


@dataclass(frozen=True)
class Neighbour:
    """A flow that is like another.

    Attributes:
        verdict: its final one, as it was given.
        similarity: cosine of the two hidden vectors.
    """

    verdict: Verdict
    similarity: float


class RecentFlows:
    """The newest final verdicts that this process knows of; a `Sink`."""

    def __init__(self, *, kept: int = KEPT) -> None:
        self._kept = kept
        self._verdicts: OrderedDict[str, Verdict] = OrderedDict()
        self._lock = threading.Lock()

    def write(self, verdicts: Sequence[Verdict]) -> None:
        """See `Sink`."""
        final = [each for each in verdicts if each.final]
        with self._lock:
            for verdict in final:
                self._verdicts.setdefault(verdict.prediction_id, verdict)
            while len(self._verdicts) > self._kept:
                self._verdicts.popitem(last=False)

    def close(self) -> None:
        """See `Sink`."""

    def near(self, prediction_id: str, *, k: int) -> list[Neighbour] | None:
        """The flow itself and the `k` others most like it, of the same version, the likest first;
        None where its final verdict is not kept here."""
        with self._lock:
            verdict = self._verdicts.get(prediction_id)
            if verdict is None:
                return None
            others = [
                each
                for each in self._verdicts.values()
                if each.model_version == verdict.model_version and each is not verdict
            ]
        if not others:
            return [Neighbour(verdict, 1.0)]
        similarity: FloatArray = np.stack([each.hidden for each in others]) @ verdict.hidden
        # Replicas list the same flows in different orders: among equals the id decides.
        ids = np.array([each.prediction_id for each in others])
        likest = np.lexsort((ids, -similarity.round(5)))[:k].tolist()
        return [
            Neighbour(verdict, 1.0),
            *(Neighbour(others[row], float(similarity[row])) for row in likest),
        ]
