"""An inverted file on a processor, scanned in one compiled pass that keeps the best by score.

FAISS finds the nearest lists and holds them. What it would return is the nearest vectors, of which
hidden ones are taken out, to which what popularity is worth is added, and which are sorted anew:
three times as many as are wanted, kept in a heap that costs as much as the scan. Here a row's
offset is added, and its filters asked, as it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.compiled import array_at, compiler
from feature_store.vectors.backend import load_faiss
from feature_store.vectors.filters import BoolArray, IntArray

FloatArray = NDArray[np.float32]
# Sums may be reordered, so that they use the machine's vectors.
compiled = compiler(Path(__file__).parent, fastmath={"reassoc", "contract", "nsz"})

_NOTHING = np.iinfo(np.int64).max
_ROW_BITS = 32
# So many more than are wanted are kept before the worst of them are thrown out.
SPARE = 1_024
_NO_ROWS = np.zeros(0, np.int64)
_NO_MASK = np.zeros(0, np.bool_)


class Lists:
    """The lists of a FAISS `IndexIVFFlat`, which must live as long and stay as it is."""

    def __init__(self, index: Any) -> None:
        """Reads where they are, and nothing of them."""
        faiss = load_faiss()
        self._quantizer = faiss.downcast_index(index.quantizer)
        lists = index.invlists
        self._sizes = np.array([lists.list_size(at) for at in range(index.nlist)], np.int64)
        self._vectors = self._addresses(lists.get_codes)
        self._rows = self._addresses(lists.get_ids)

    def search(
        self,
        queries: FloatArray,
        n: int,
        breadth: int,
        *,
        offset: FloatArray,
        allowed: BoolArray | None,
        hidden: Sequence[IntArray] | None,
        flags: BoolArray,
    ) -> tuple[FloatArray, IntArray]:
        """The `n` rows of the `breadth` nearest lists with the largest q·x + offset, best first.

        Args:
            queries: (B, d) float32.
            offset: (rows,) float32. allowed: (rows,) those that may be returned; None: all.
            hidden: B arrays of rows that the query in that place must not get.
            flags: one for every row there is, all False; they are so again afterwards.

        Returns:
            scores (B, n) and rows (B, n); -inf and -1 where fewer were found.
        """
        _, probed = self._quantizer.search(queries, breadth)
        ends = np.cumsum([len(each) for each in hidden or [_NO_ROWS] * len(queries)])
        keys = np.full((len(queries), n), _NOTHING, np.int64)
        _scan(
            queries,
            probed,
            (self._sizes, self._vectors, self._rows),
            offset,
            _NO_MASK if allowed is None else allowed,
            np.concatenate(hidden) if hidden else _NO_ROWS,
            ends,
            flags,
            n + max(n, SPARE),
            keys,
        )
        keys.sort(axis=1)
        scores, rows = np.empty(keys.shape, np.float32), np.empty(keys.shape, np.int64)
        _unpack(keys, scores, rows)
        return scores, rows

    def _addresses(self, pointer: Callable[[int], Any]) -> NDArray[np.uint64]:
        sizes = enumerate(self._sizes.tolist())
        return np.array([int(pointer(at)) if size else 0 for at, size in sizes], np.uint64)


@compiled
def _scan(
    queries: FloatArray,
    probed: IntArray,
    lists: tuple[IntArray, NDArray[np.uint64], NDArray[np.uint64]],
    offset: FloatArray,
    allowed: BoolArray,
    hidden: IntArray,
    ends: IntArray,
    flags: BoolArray,
    room: int,
    keys: IntArray,
) -> None:
    """Fill `keys` (B, n) with those of the best rows of each query's lists, in any order; when
    `room` (> n) of them have come together, the worst are thrown out."""
    sizes, vectors_at, rows_at = lists
    n, d = keys.shape[1], queries.shape[1]
    best = np.empty(room, np.int64)
    begin = 0
    for b in range(len(queries)):
        query = queries[b]
        for at in range(begin, ends[b]):
            if 0 <= hidden[at] < len(flags):
                flags[hidden[at]] = True
        kept, worst = 0, _NOTHING
        for place in range(probed.shape[1]):
            number = probed[b, place]
            if number < 0:
                continue
            size = sizes[number]
            vectors = array_at(vectors_at[number], (size, d), np.float32)
            rows = array_at(rows_at[number], (size,), np.int64)
            for at in range(size):
                row = rows[at]
                if flags[row] or (len(allowed) and not allowed[row]):
                    continue
                product = np.float32(0)
                for k in range(d):
                    product += query[k] * vectors[at, k]
                key = _key(product + offset[row], row)
                if key < worst:
                    best[kept] = key
                    kept += 1
                    if kept == len(best):
                        _smallest_first(best, n)
                        kept, worst = n, best[:n].max()
        if kept > n:
            _smallest_first(best[:kept], n)
            kept = n
        keys[b, :kept] = best[:kept]
        for at in range(begin, ends[b]):
            if 0 <= hidden[at] < len(flags):
                flags[hidden[at]] = False
        begin = ends[b]


@compiled
def _key(score: np.float32, row: np.int64) -> np.int64:
    """A number that is the smaller, the larger the score; of equal ones, the smaller the row."""
    bits = np.int64(np.float32(score).view(np.int32))
    # Of negative floats the bits grow with the magnitude.
    ascending = bits if bits >= 0 else np.int64(-(2**31)) - bits - 1
    return (-ascending << _ROW_BITS) | row


@compiled
def _unpack(keys: IntArray, scores: FloatArray, rows: IntArray) -> None:
    """What `_key` made keys of; -inf and -1 where there is none."""
    for b in range(len(keys)):
        for place in range(keys.shape[1]):
            key = keys[b, place]
            if key == _NOTHING:
                scores[b, place] = -np.inf
                rows[b, place] = -1
                continue
            ascending = -(key >> _ROW_BITS)
            bits = ascending if ascending >= 0 else np.int64(-(2**31)) - ascending - 1
            scores[b, place] = np.int32(bits).view(np.float32)
            rows[b, place] = key & ((1 << _ROW_BITS) - 1)


@compiled
def _smallest_first(keys: IntArray, n: int) -> None:
    """Move the `n` smallest of different keys to the front (Hoare's selection)."""
    low, high = 0, len(keys) - 1
    while low < high:
        pivot = keys[(low + high) >> 1]
        left, right = low, high
        while left <= right:
            while keys[left] < pivot:
                left += 1
            while keys[right] > pivot:
                right -= 1
            if left <= right:
                keys[left], keys[right] = keys[right], keys[left]
                left += 1
                right -= 1
        if n - 1 <= right:
            high = right
        elif n - 1 >= left:
            low = left
        else:
            return
