"""What follows what, exactly: a sparse item-to-item model beside the vectors.

    score(h, i) = Σ_j h_j W_ji,    W row j: the few items that item j speaks for most

A linear item-item model over a large catalogue has a high rank: vectors of a few hundred dimensions
cannot hold it, while its strongest weights are a short list an item. Lists also *reach* items whose
vectors are far from the user's: what they bring competes with what search found, by the sum of both
scores. `unite_reference` tells slowly what the compiled pass does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from safetensors.numpy import save_file

from feature_store.compiled import compiler
from feature_store.editions.mapped import map_arrays
from feature_store.interactions.history_rows import SparseRows

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]
Lists = tuple[IntArray, NDArray[np.int32], FloatArray]
Histories = tuple[NDArray[np.int32], NDArray[np.int32], FloatArray]

# At least so many of the items that lists reach compete with those that search found, and twice as
# many as are asked for.
REACHED = 200

_DTYPES = {"indptr": np.int64, "items": np.int32, "weights": np.float32}
_ALL = np.zeros(0, np.bool_)
_NONE = np.zeros(0, np.int64)
# Sums may be reordered, so that they use the machine's vectors.
compiled = compiler(Path(__file__).parent, fastmath={"reassoc", "contract", "nsz"})


@dataclass(frozen=True, eq=False)
class NeighbourLists:
    """W as rows of a sparse matrix.

    Attributes:
        indptr: (n_items + 1,) int64, where each row begins.
        items: (nnz,) int32 columns, ascending in a row.
        weights: (nnz,) float32, in the unit of a score.
    """

    indptr: IntArray
    items: NDArray[np.int32]
    weights: FloatArray

    @classmethod
    def of(cls, matrix: sp.csr_matrix, *, weight: float = 1.0) -> NeighbourLists | None:
        """The rows of W · `weight`; None where that is nothing."""
        if weight == 0 or matrix.nnz == 0:
            return None
        rows = sp.csr_matrix(matrix, dtype=np.float32, copy=True)
        rows.sum_duplicates()
        rows.sort_indices()
        return cls(
            rows.indptr.astype(np.int64),
            rows.indices.astype(np.int32),
            (rows.data * weight).astype(np.float32),
        )

    def weighed(self, weight: float) -> NeighbourLists | None:
        """The lists of W · `weight`; None where that is nothing."""
        if weight == 0:
            return None
        return replace(self, weights=(self.weights * weight).astype(np.float32))

    def __len__(self) -> int:
        """Items, with or without a list."""
        return len(self.indptr) - 1

    def save(self, path: Path) -> None:
        """As safetensors."""
        save_file({"indptr": self.indptr, "items": self.items, "weights": self.weights}, path)

    @classmethod
    def load(cls, path: Path, *, n_items: int) -> NeighbourLists | None:
        """What `save` wrote, mapped into memory; None of a version that was published without.

        Raises:
            ValueError: no such lists, or those of another catalogue.
        """
        if not path.exists():
            return None
        arrays = map_arrays(path)
        if {name: each.dtype for name, each in arrays.items()} != _DTYPES:
            raise ValueError(f"{path} holds {sorted(arrays)}, not indptr, items and weights")
        indptr, items, weights = arrays["indptr"], arrays["items"], arrays["weights"]
        if len(indptr) != n_items + 1:
            raise ValueError(f"{path} has lists of {len(indptr) - 1} items, not {n_items}")
        whole = indptr[0] == 0 and indptr[-1] == len(items) == len(weights)
        inside = len(items) == 0 or (items.min() >= 0 and items.max() < n_items)
        # The compiled pass checks no bounds.
        if not (whole and inside and bool((np.diff(indptr) >= 0).all())):
            raise ValueError(f"{path}: the lists point outside the catalogue")
        return cls(indptr.view(np.int64), items.view(np.int32), weights)

    def renumbered(self, places: IntArray, *, n_items: int) -> NeighbourLists:
        """The lists of a catalogue where row i has moved to `places[i]`, or is gone (-1)."""
        source = np.repeat(np.arange(len(self)), np.diff(self.indptr))
        row, column = places[source], places[self.items]
        kept = (row >= 0) & (column >= 0)
        moved = sp.csr_matrix(
            (self.weights[kept], (row[kept], column[kept])), shape=(n_items, n_items)
        )
        moved.sort_indices()
        return NeighbourLists(
            moved.indptr.astype(np.int64),
            moved.indices.astype(np.int32),
            moved.data.astype(np.float32),
        )

    def add_to(self, scored: FloatArray, histories: SparseRows) -> None:
        """Add every item's score, in place.

        Args:
            scored: (B, n_items). histories: (B, n_items) weights.
        """
        _add(self._arrays, _flat(histories), scored)

    def of_pairs(self, histories: SparseRows, who: IntArray, rows: IntArray) -> FloatArray:
        """(R,) the scores of the items `rows` (R,) for the users `who` (R,) of `histories`."""
        found = np.zeros(len(rows), np.float32)
        _of_pairs(self._arrays, _flat(histories), who, rows, found)
        return found

    def parts(self, history: SparseRows, rows: IntArray) -> FloatArray:
        """(K, E): what each of one history's E items adds to the items `rows` (K,)."""
        found = np.zeros((len(rows), len(history.indices)), np.float32)
        _parts(self._arrays, history.indices, history.data, rows, found)
        return found

    def unite(
        self,
        scores: FloatArray,
        rows: IntArray,
        histories: SparseRows,
        *,
        users: FloatArray,
        item_vectors: FloatArray,
        bias: FloatArray,
        temperature: float,
        reach: int,
        allowed: Sequence[BoolArray] = (),
        hidden: Sequence[IntArray] | None = None,
    ) -> tuple[FloatArray, IntArray]:
        """What search found with the lists' scores added, and behind it what lists reach besides.

        Args:
            scores, rows: (B, n) from search; -inf and -1 where fewer were found.
            histories: (B, n_items) weights.
            users: (B, d), item_vectors: (n_items, d), bias: (≥ n_items,), temperature: of the
                score of an item that search did not find.
            reach: at most so many of those, the ones with the highest scores by lists alone.
            allowed: up to two masks (≥ n_items,) that such an item must pass.
            hidden: per user, rows that such an item must not be.

        Returns:
            (B, n + reach), not sorted; -inf and -1 where less was reached.
        """
        n = rows.shape[1]
        united = np.full((len(rows), n + reach), -np.inf, np.float32)
        found = np.full((len(rows), n + reach), -1, np.int64)
        united[:, :n], found[:, :n] = scores, rows
        masks = [*allowed, _ALL, _ALL]
        flat = _flat(histories)
        for at in range(len(rows)):
            _unite(
                self._arrays, flat, at, users[at], item_vectors, bias, temperature,
                masks[0], masks[1], _NONE if hidden is None else hidden[at],
                n, united[at], found[at],
            )  # fmt: skip
        return united, found

    @property
    def _arrays(self) -> Lists:
        return self.indptr, self.items, self.weights


def unite_reference(
    lists: NeighbourLists,
    scores: FloatArray,
    rows: IntArray,
    history: sp.csr_matrix,
    own: FloatArray,
    *,
    reach: int,
    allowed: BoolArray,
    hidden: IntArray,
) -> dict[int, float]:
    """`NeighbourLists.unite` of one user: item → score; `own` (n_items,) are the other scores."""
    shape = (len(lists), len(lists))
    W = sp.csr_matrix((lists.weights, lists.items, lists.indptr), shape=shape).toarray()
    heard = history.toarray()[0].astype(np.float64) @ W.astype(np.float64)
    found = {int(i): float(s) + heard[i] for s, i in zip(scores, rows, strict=True) if i >= 0}
    listed = np.unique(np.concatenate([np.flatnonzero(W[j]) for j in history.indices] or [_NONE]))
    others = [i for i in listed if allowed[i] and i not in hidden and i not in found]
    best = sorted(others, key=lambda i: -heard[i])[:reach]
    return found | {int(i): float(own[i]) + heard[i] for i in best}


def _flat(histories: SparseRows) -> Histories:
    return histories.indptr, histories.indices, histories.data


@compiled
def _add(lists: Lists, histories: Histories, scored: FloatArray) -> None:
    indptr, items, weights = lists
    users, indices, loud = histories
    for b in range(len(scored)):
        for e in range(users[b], users[b + 1]):
            j = indices[e]
            for at in range(indptr[j], indptr[j + 1]):
                scored[b, items[at]] += loud[e] * weights[at]


@compiled
def _weight(lists: Lists, j: int, i: int) -> np.float32:
    """W_ji, by bisection."""
    indptr, items, weights = lists
    found = np.float32(0)
    low, high = indptr[j], indptr[j + 1]
    while low < high:
        middle = (low + high) // 2
        if items[middle] < i:
            low = middle + 1
        else:
            high = middle
    if low < indptr[j + 1] and items[low] == i:
        found = weights[low]
    return found


@compiled
def _of_pairs(
    lists: Lists, histories: Histories, who: IntArray, rows: IntArray, found: FloatArray
) -> None:
    users, indices, loud = histories
    for r in range(len(rows)):
        for e in range(users[who[r]], users[who[r] + 1]):
            found[r] += loud[e] * _weight(lists, indices[e], rows[r])


@compiled
def _parts(
    lists: Lists,
    indices: NDArray[np.int32],
    loud: FloatArray,
    rows: IntArray,
    found: FloatArray,
) -> None:
    for k in range(len(rows)):
        for e in range(len(indices)):
            found[k, e] = loud[e] * _weight(lists, indices[e], rows[k])


@compiled
def _place(keys: NDArray[np.int32], item: int) -> np.uint64:
    """Where an item is in an open hash table, or the free place where it belongs."""
    at = (np.uint64(item) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(32)
    last = np.uint64(len(keys) - 1)
    at &= last
    while keys[at] != -1 and keys[at] != item:
        at = (at + np.uint64(1)) & last
    return at


@compiled
def _unite(
    lists: Lists,
    histories: Histories,
    user_at: int,
    user: FloatArray,
    vectors: FloatArray,
    bias: FloatArray,
    temperature: float,
    allowed: BoolArray,
    also_allowed: BoolArray,
    hidden: IntArray,
    n: int,
    scores: FloatArray,
    rows: IntArray,
) -> None:
    """One user of `NeighbourLists.unite`; the first n of `scores` and `rows` are filled."""
    indptr, items, weights = lists
    users, indices, loud = histories
    begin, end = users[user_at], users[user_at + 1]
    total = 0
    for e in range(begin, end):
        total += indptr[indices[e] + 1] - indptr[indices[e]]
    if total == 0:
        return
    size = 16
    while size < 2 * total:
        size *= 2
    keys, heard = np.full(size, np.int32(-1)), np.zeros(size, np.float32)
    for e in range(begin, end):
        j = indices[e]
        for at in range(indptr[j], indptr[j + 1]):
            place = _place(keys, items[at])
            keys[place] = items[at]
            heard[place] += loud[e] * weights[at]
    for at in range(n):
        if rows[at] >= 0:
            place = _place(keys, rows[at])
            if keys[place] != -1:
                scores[at] += heard[place]
                heard[place] = -np.inf  # it needs not be reached
    for row in hidden:
        place = _place(keys, row)
        if keys[place] != -1:
            heard[place] = -np.inf
    reached, said, count = np.empty(total, np.int32), np.empty(total, np.float32), 0
    for slot in range(size):
        i = keys[slot]
        if i == -1 or heard[slot] == -np.inf:
            continue
        if (len(allowed) and not allowed[i]) or (len(also_allowed) and not also_allowed[i]):
            continue
        reached[count], said[count] = i, heard[slot]
        count += 1
    room = len(rows) - n
    least = np.float32(-np.inf)
    if count > room:
        if room == 0:
            return
        least = np.partition(said[:count], count - room)[count - room]
    to = n
    for above in (True, False):  # of equal ones at the edge some are left out
        for c in range(count):
            if to < len(rows) and (said[c] > least if above else said[c] == least):
                i = reached[c]
                dot = np.float32(0)
                for k in range(len(user)):
                    dot += user[k] * vectors[i, k]
                rows[to], scores[to] = i, dot / temperature + bias[i] + said[c]
                to += 1
