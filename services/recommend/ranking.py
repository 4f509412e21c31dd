"""Between retrieval and the answer: the stages that move what was found.

**The place for a re-ranking stage.** A `Stage` sees a whole batch of candidates and adds to their
scores; what it added is shown by `explain` under its name. `stages_of` composes them in order:
first what corrects the model, then what the business wants. Diversity picks the final list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.recommend.assortment import Assortment
from services.recommend.settings import Rules

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]


@dataclass
class Candidates:
    """What retrieval found for B requests.

    Attributes:
        assortment: what the rows mean.
        model_version: whose scores and vectors these are.
        user_ids: (B,) None for an anonymous request.
        users: (B, d + r) float32 user vectors: the model's own representation of each request.
        rows: (B, n) int64, -1 where fewer were found.
        scores: (B, n) float32, -inf there.
        moved: stage → (B, n) float32, what it added.
    """

    assortment: Assortment
    model_version: str
    user_ids: Sequence[str | None]
    users: FloatArray
    rows: IntArray
    scores: FloatArray
    moved: dict[str, FloatArray] = field(default_factory=dict)


class Stage(Protocol):
    """Adds to the scores of a batch of candidates, in place of nothing else.

    Called on the event loop's thread: it must not wait for anything. One that fails costs the
    answers its correction, not the answers: the failure is counted and the scores stay.
    """

    @property
    def name(self) -> str:
        """As `explain` and the metrics call it."""
        ...

    def offsets(self, candidates: Candidates) -> FloatArray | None:
        """(B, n) float32 to add to `candidates.scores`; None moves nothing."""
        ...


class Boosts:
    """The configured boosts, as one offset an item."""

    name = "rules"

    def __init__(self, rules: Rules, assortment: Assortment) -> None:
        self._offsets = np.zeros(len(assortment), np.float32)
        for boost in rules.boost:
            self._offsets[assortment.mask(boost.where)] += boost.add

    def offsets(self, candidates: Candidates) -> FloatArray | None:
        """See `Stage`."""
        moved: FloatArray = np.where(
            candidates.rows >= 0, self._offsets[candidates.rows], 0
        ).astype(np.float32)
        return moved


def stages_of(
    rules: Rules, assortment: Assortment, corrections: Sequence[Stage] = ()
) -> tuple[Stage, ...]:
    """The stages of one version: what corrects the model first, then the business rules."""
    return (*corrections, *((Boosts(rules, assortment),) if rules.boost else ()))


def in_order(candidates: Candidates) -> None:
    """Sort every request's candidates by score, and what was moved with them."""
    order = np.argsort(-candidates.scores, axis=1, kind="stable")
    candidates.scores = np.take_along_axis(candidates.scores, order, axis=1)
    candidates.rows = np.take_along_axis(candidates.rows, order, axis=1)
    candidates.moved = {
        name: np.take_along_axis(each, order, axis=1) for name, each in candidates.moved.items()
    }
