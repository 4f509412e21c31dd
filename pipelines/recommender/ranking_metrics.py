"""Top lists and the metrics read off them.

Everything rests on one strict order of a case's eligible items:

    higher score first;  at equal score, items that are no target first;  then lower index first.

So ties count against the model: a target is listed only after every item that is no target and
scores at least as much, and a constant scorer hits nothing in a catalogue larger than its list.
Targets never push each other down unfairly: among themselves, tied targets take consecutive places,
and a target is behind another one only where a list must put one of them first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

NO_ITEM = -1
"""What a list holds in the places for which no eligible item was left."""

_INDEX_BITS = 31
_INDEX_MASK = (1 << _INDEX_BITS) - 1
_NOT_A_TARGET = 1 << _INDEX_BITS


@dataclass(frozen=True, eq=False)
class RankedLists:
    """The best places of B cases.

    Shapes: `items` (B, K) int64, `NO_ITEM` where nothing was left to list; `hits` (B, K) bool, true
    where the listed item is a target of the case.
    """

    items: NDArray[np.int64]
    hits: NDArray[np.bool_]


def ranked_lists(
    scores: NDArray[np.float32], *, targets: csr_matrix, excluded: csr_matrix, length: int
) -> RankedLists:
    """List the best `length` items of every case, in the strict order of this module.

    Shapes: `scores` (B, N) float32 without NaN; `targets` and `excluded` (B, N) sparse; the result
    is (B, min(length, N)). An item that scores −inf is never listed, as if it were excluded.

    The order is packed into one int64 per item, `score | not a target | N − 1 − index`, so a
    partition of plain integers finds the list: no argsort, and no special case for a tie.
    Memory: 20 bytes per score while it runs.
    """
    n_items = scores.shape[1]
    length = min(length, n_items)
    keys = _ordered_bits(scores).astype(np.int64)
    keys <<= 32
    keys |= _NOT_A_TARGET | np.arange(n_items - 1, -1, -1, dtype=np.int64)
    keys[_coordinates(targets)] &= ~_NOT_A_TARGET
    keys[_coordinates(excluded)] = _NEVER
    keys.partition(n_items - length, axis=1)
    best = np.sort(keys[:, n_items - length :], axis=1)[:, ::-1]  # (B, K), best first
    listed = (best >> 32) > (_NEVER >> 32)
    return RankedLists(
        items=np.where(listed, n_items - 1 - (best & _INDEX_MASK), NO_ITEM),
        hits=listed & ((best & _NOT_A_TARGET) == 0),
    )


def ranked_lists_reference(
    scores: NDArray[np.float32], *, targets: csr_matrix, excluded: csr_matrix, length: int
) -> RankedLists:
    """`ranked_lists`, one case at a time with a plain sort."""
    n_cases, n_items = scores.shape
    length = min(length, n_items)
    items = np.full((n_cases, length), NO_ITEM, dtype=np.int64)
    hits = np.zeros((n_cases, length), dtype=np.bool_)
    for case in range(n_cases):
        wanted, banned = set(targets[case].indices), set(excluded[case].indices)
        eligible = [i for i in range(n_items) if i not in banned and scores[case, i] > -np.inf]
        eligible.sort(key=lambda i: (-scores[case, i], i in wanted, i))
        for place, item in enumerate(eligible[:length]):
            items[case, place], hits[case, place] = item, item in wanted
    return RankedLists(items=items, hits=hits)


def recall(hits: NDArray[np.bool_], n_targets: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Share of a case's targets among its first k places: hits@k / |targets|, as LightGCN counts.

    Shapes: `hits` (B, K), `n_targets` (B,) of at least 1; returns (B,).
    """
    found: NDArray[np.int64] = hits[:, :k].sum(axis=1)
    return found / n_targets


def ndcg(hits: NDArray[np.bool_], n_targets: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Gain Σ hit_r / log2(r + 1) over ranks r = 1…k, over that of the min(k, |targets|) best ranks.

    Shapes: `hits` (B, K), `n_targets` (B,) of at least 1; returns (B,).
    """
    discount = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.minimum(n_targets, k) - 1]
    within = hits[:, :k]
    gain: NDArray[np.float64] = within @ discount[: within.shape[1]]
    relative: NDArray[np.float64] = gain / ideal
    return relative


def hit_rate(hits: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """1 where any target is among the first k places, else 0. Shapes: (B, K) to (B,)."""
    found: NDArray[np.bool_] = np.logical_or.reduce(hits[:, :k], axis=1)
    return found.astype(np.float64)


def reciprocal_rank(hits: NDArray[np.bool_], k: int) -> NDArray[np.float64]:
    """1 / rank of the first target among the first k places, else 0. Shapes: (B, K) to (B,)."""
    within = hits[:, :k]
    first: NDArray[np.int64] = within.argmax(axis=1) + 1
    found: NDArray[np.bool_] = np.logical_or.reduce(within, axis=1)
    return found / first


def novelty(
    items: NDArray[np.int64], popularity: NDArray[np.float64], k: int
) -> NDArray[np.float64]:
    """Mean self-information of the first k places, in bits: −log2 of the item's popularity share.

    Shapes: `items` (B, K), `popularity` (N,) interaction counts; returns (B,), 0 for an empty list.
    One is added to every count, so that an item without interactions is rare, not infinite.
    (Zhou et al., PNAS 2010.)
    """
    share = (popularity + 1.0) / (popularity.sum() + len(popularity))
    within = items[:, :k]
    listed = within != NO_ITEM
    bits = np.where(listed, -np.log2(share)[within], 0.0)
    mean: NDArray[np.float64] = bits.sum(axis=1) / np.maximum(listed.sum(axis=1), 1)
    return mean


def exposure(items: NDArray[np.int64], n_items: int, k: int) -> NDArray[np.int64]:
    """How many lists show each item in their first k places. Shapes: (B, K) to (n_items,)."""
    within = items[:, :k]
    return np.bincount(within[within != NO_ITEM], minlength=n_items)


def coverage(shown: NDArray[np.int64]) -> float:
    """Share of the items that appear in at least one list. `shown`: their exposures, (M,)."""
    return float((shown > 0).mean())


def gini(shown: NDArray[np.int64]) -> float:
    """Gini index of exposure: 0 when all items are shown equally, towards 1 when few take it all.

    Σ_i (2i − M − 1) x_i / (M Σ x) over exposures x in ascending order; 0 when nothing was shown.
    """
    n_items, total = len(shown), int(shown.sum())
    weights = 2 * np.arange(1, n_items + 1) - n_items - 1
    return float(weights @ np.sort(shown)) / (n_items * total) if total else 0.0


def gini_reference(shown: NDArray[np.int64]) -> float:
    """`gini` by its definition: mean absolute difference over all pairs, over twice the mean."""
    if not shown.any():
        return 0.0
    differences = np.abs(shown[:, None] - shown[None, :])
    return float(differences.mean() / (2 * shown.mean()))


def _ordered_bits(scores: NDArray[np.float32]) -> NDArray[np.int32]:
    """Integers that compare as the floats do."""
    bits = (scores + np.float32(0)).view(np.int32)  # adding zero makes −0.0 equal to 0.0
    # A negative float's magnitude bits grow as the number falls: turn them around.
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    return bits


def _coordinates(matrix: csr_matrix) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)), matrix.indices


_NEVER = int(_ordered_bits(np.array([-np.inf], dtype=np.float32))[0]) << 32
