"""Which of the ranked candidates make the list, so that it is not ten times the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# MMR compares each candidate with each that was chosen: only so many times k are looked at.
CONSIDERED_PER_K = 4


def capped(types: Sequence[str], caps: Mapping[str, int], k: int) -> list[int]:
    """Places of the list of `k`, at most `caps[type]` of a type.

    Where nothing else is left those over their cap fill the list: k come back whenever k exist.

    Args:
        types: of the candidates, best first.
        caps: type → most of it in a list; a type without one is free.
        k: length of the list.
    """
    taken: Counter[str] = Counter()
    within, over = [], []
    for place, kind in enumerate(types):
        if taken[kind] < caps.get(kind, k):
            taken[kind] += 1
            within.append(place)
            if len(within) == k:
                return within
        else:
            over.append(place)
    return within + over[: k - len(within)]


def maximal_marginal_relevance(
    scores: FloatArray, vectors: FloatArray, *, diversity: float, k: int
) -> IntArray:
    """Places of the list of `k`, each chosen for its score less its likeness to those above.

        argmax  (1 - λ)·s_i - λ·max_{j chosen} cos(z_i, z_j)

    with the scores s scaled to [0, 1] over the candidates (Carbonell and Goldstein 1998).

    Args:
        scores: (n,) best first.
        vectors: (n, d) item vectors.
        diversity: λ in [0, 1).
        k: length of the list.
    """
    n = min(len(scores), CONSIDERED_PER_K * k)
    scores, vectors = scores[:n], vectors[:n]
    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    unit = vectors / lengths
    spread = max(float(scores[0] - scores[-1]), 1e-12)
    relevance = (1 - diversity) * (scores - scores[-1]) / spread
    likeness = np.full(n, -1.0, np.float32)
    value = relevance.copy()
    chosen = np.empty(min(k, n), np.int64)
    for place in range(len(chosen)):
        best = int(value.argmax())
        chosen[place] = best
        relevance[best] = -np.inf
        np.maximum(likeness, unit @ unit[best], out=likeness)
        value = relevance - diversity * likeness
    return chosen
