"""Which candidates make the lists: the best, or what diversity and caps pick among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.recommend.diversity import capped, maximal_marginal_relevance
from services.recommend.ranking import Candidates
from services.recommend.settings import Rules

# Caps and diversity choose among more than they return.
CHOICE_PER_K = 3


class Lists(NamedTuple):
    """The lists of B requests, best first: of each the first `counts` (B,) of the columns.

    Attributes:
        rows: (B, k) int64. scores, uncorrected: (B, k) float32, with and without what stages moved.
        places: of each, where its items are among the candidates; None for the first ones.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    uncorrected: NDArray[np.float32]
    counts: NDArray[np.int64]
    places: list[NDArray[np.int64]] | None

    @classmethod
    def of(cls, candidates: Candidates, sizes: Sequence[int], rules: Rules) -> Lists:
        """The candidates that make lists of at most `sizes` (B,) items."""
        n_found = (candidates.rows >= 0).sum(1)
        k = np.array(sizes)
        most = min(int(k.max()), candidates.rows.shape[1])
        uncorrected = candidates.scores
        for moved in candidates.moved.values():
            uncorrected = uncorrected - moved
        if not rules.type_caps and not rules.diversity:
            return cls(
                rows=candidates.rows[:, :most],
                scores=candidates.scores[:, :most],
                uncorrected=uncorrected[:, :most],
                counts=np.minimum(k, n_found),
                places=None,
            )
        places = [
            _by_rules(rules, candidates, number, n, size)
            for number, (n, size) in enumerate(zip(n_found.tolist(), sizes, strict=True))
        ]
        counts = np.array([len(each) for each in places])
        at = np.zeros((len(places), most), np.int64)
        for number, each in enumerate(places):
            at[number, : len(each)] = each
        return cls(
            rows=np.take_along_axis(candidates.rows, at, axis=1),
            scores=np.take_along_axis(candidates.scores, at, axis=1),
            uncorrected=np.take_along_axis(uncorrected, at, axis=1),
            counts=counts,
            places=places,
        )


def _by_rules(
    rules: Rules, candidates: Candidates, number: int, n_found: int, k: int
) -> NDArray[np.int64]:
    """Places of one request's candidates that make the list."""
    rows = candidates.rows[number]
    places = np.arange(n_found)
    if rules.diversity and n_found:
        wanted = n_found if rules.type_caps else k
        places = maximal_marginal_relevance(
            candidates.scores[number][:n_found],
            candidates.assortment.vectors(rows[:n_found]),
            diversity=rules.diversity,
            k=min(wanted, CHOICE_PER_K * k),
        )
    if rules.type_caps:
        types = candidates.assortment.item_types(rows[places].tolist())
        places = places[capped(types, rules.type_caps, k)]
    return places[:k]
