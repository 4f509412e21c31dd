"""Which rows a search may return."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.vectors.backend import load_faiss

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class RowFilter:
    """An immutable set of rows, in the forms that each way of searching wants.

    Made once and used for many searches: the forms are computed when first asked for.
    """

    def __init__(self, mask: BoolArray) -> None:
        """`mask` (n,): True for a row that may be returned."""
        self.mask = mask

    def __len__(self) -> int:
        return len(self.mask)

    @cached_property
    def count(self) -> int:
        """How many rows pass."""
        return int(self.mask.sum())

    @property
    def share(self) -> float:
        """The part of all rows that passes."""
        return self.count / max(len(self.mask), 1)

    @cached_property
    def rows(self) -> IntArray:
        """The rows that pass, ascending."""
        return np.flatnonzero(self.mask).astype(np.int64)

    @cached_property
    def span(self) -> slice | None:
        """The rows as one slice where they are contiguous, as an item type's are."""
        rows = self.rows
        if len(rows) == 0 or rows[-1] - rows[0] + 1 != len(rows):
            return None
        return slice(int(rows[0]), int(rows[-1]) + 1)

    @cached_property
    def selector(self) -> Any:
        """FAISS's form: a bitmap."""
        faiss = load_faiss()
        # FAISS keeps a pointer: the bitmap must live as long as the selector.
        self._bitmap = np.packbits(self.mask, bitorder="little")
        return faiss.IDSelectorBitmap(len(self.mask), faiss.swig_ptr(self._bitmap))

    def without(self, rows: IntArray) -> RowFilter:
        """This set less `rows`, of which those that there are not change nothing."""
        mask = self.mask.copy()
        mask[rows[(rows >= 0) & (rows < len(mask))]] = False
        return RowFilter(mask)
