"""Rows added and withdrawn between two builds: an exact side index beside an immutable base."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from feature_store.vectors.filters import BoolArray, IntArray, RowFilter
from feature_store.vectors.index import VectorIndex, top

FloatArray = NDArray[np.float32]


class SideIndex:
    """A base index of n rows, m added rows n…n+m-1 that are scanned exactly, and withdrawn rows.

    Immutable: a change makes a new one around the same base, so that a search sees all of it or
    nothing.

    Example:
        >>> live = SideIndex(base, added=new_vectors, withdrawn=np.array([3]))   # doctest: +SKIP
        >>> scores, rows = live.search(queries, k=100)
    """

    def __init__(
        self, base: VectorIndex, *, added: FloatArray, withdrawn: IntArray | None = None
    ) -> None:
        """`added` (m, d) float32; `withdrawn` rows of base or of the added; `available` (n + m,)
        tells the others.

        Raises:
            ValueError: wrong dimension of `added`, or a withdrawn row that does not exist.
        """
        if added.ndim != 2 or added.shape[1] != base.dimension:
            raise ValueError(f"added has shape {added.shape}, the base takes (m, {base.dimension})")
        withdrawn = np.zeros(0, np.int64) if withdrawn is None else np.asarray(withdrawn)
        total = len(base) + len(added)
        if len(withdrawn) and not 0 <= withdrawn.min() <= withdrawn.max() < total:
            raise ValueError(f"withdrawn rows must lie in 0…{total - 1}, got {withdrawn.tolist()}")
        self.base = base
        self._added = np.ascontiguousarray(added, dtype=np.float32)
        available = np.ones(total, np.bool_)
        available[withdrawn] = False
        self.available = available
        self._everything = len(withdrawn) == 0
        self._split: dict[int, tuple[RowFilter, RowFilter | None, BoolArray]] = {}
        self._nothing_asked = self._parts(None)

    def __len__(self) -> int:
        return len(self.available)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.base.dimension

    @property
    def best_by_sum(self) -> bool:
        """See `VectorIndex`: the added rows are scanned anyway."""
        return self.base.best_by_sum

    def search(
        self,
        queries: FloatArray,
        k: int,
        *,
        offset: FloatArray | None = None,
        allowed: RowFilter | BoolArray | None = None,
        hidden: Sequence[IntArray] | None = None,
        at_least: int | None = None,
    ) -> tuple[FloatArray, IntArray]:
        """As `VectorIndex.search`, over base and added rows; withdrawn ones never come back."""
        base_filter, added_mask = self._filters(allowed)
        n = len(self.base)
        base_hidden = None if hidden is None else [rows[rows < n] for rows in hidden]
        scores, rows = self.base.search(
            queries,
            k,
            offset=None if offset is None else offset[:n],
            allowed=base_filter,
            hidden=base_hidden,
            at_least=at_least,
        )
        if not added_mask.any():
            return scores, rows
        side = queries @ self._added.T  # (B, m)
        if offset is not None:
            side += offset[n:]
        side[:, ~added_mask] = -np.inf
        for query, unwanted in enumerate(hidden or ()):
            side[query, unwanted[(unwanted >= n) & (unwanted < len(self))] - n] = -np.inf
        side_rows = np.where(np.isfinite(side), np.arange(len(self._added)) + n, -1)
        scores = np.concatenate([scores, side.astype(np.float32)], axis=1)
        rows = np.concatenate([rows, side_rows], axis=1)
        best_scores, places = top(scores, k)
        return best_scores, np.take_along_axis(rows, places, axis=1)

    def _filters(self, allowed: RowFilter | BoolArray | None) -> tuple[RowFilter | None, BoolArray]:
        if allowed is None:
            return self._nothing_asked
        if not isinstance(allowed, RowFilter):
            return self._parts(RowFilter(allowed))
        # The same filter comes with many requests; its split is kept as long as it is.
        kept = self._split.get(id(allowed))
        if kept is None or kept[0] is not allowed:
            if len(self._split) > 64:
                self._split.clear()
            kept = (allowed, *self._parts(allowed))
            self._split[id(allowed)] = kept
        return kept[1], kept[2]

    def _parts(self, allowed: RowFilter | None) -> tuple[RowFilter | None, BoolArray]:
        n = len(self.base)
        if allowed is None:
            base = None if self._everything else RowFilter(self.available[:n])
            return base, self.available[n:]
        if len(allowed) != len(self):
            raise ValueError(
                f"mask has shape {allowed.mask.shape}, index holds {len(self)} vectors"
            )
        if self._everything and len(self._added) == 0:
            return allowed, self.available[n:]
        mask = allowed.mask & self.available
        return RowFilter(mask[:n]), mask[n:]
