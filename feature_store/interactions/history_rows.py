"""Users' weighed histories as the rows of a sparse matrix."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

_NO_ITEMS, _NO_WEIGHTS = np.zeros(0, np.int32), np.zeros(0, np.float32)


class SparseRows(Protocol):
    """What scipy's `csr_matrix` and `HistoryRows` have in common: B rows over n_items columns.

    Row b has the weights `data[indptr[b] : indptr[b + 1]]` in the columns `indices` there.
    """

    @property
    def indptr(self) -> Any:
        """(B + 1,) int32."""
        ...

    @property
    def indices(self) -> Any:
        """(E,) int32."""
        ...

    @property
    def data(self) -> Any:
        """(E,) float32."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, n_items)."""
        ...


class HistoryRows(NamedTuple):
    """The same arrays without scipy's checks, which cost a request more than its search.

    Attributes:
        indptr: (B + 1,) int32. indices: (E,) int32 items. data: (E,) float32 weights.
    """

    indptr: NDArray[np.int32]
    indices: NDArray[np.int32]
    data: NDArray[np.float32]
    n_items: int

    @classmethod
    def of(
        cls, weighed: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]], n_items: int
    ) -> HistoryRows:
        """Of each user the items, newest first, and how loudly they speak."""
        ends = accumulate((len(items) for items, _ in weighed), initial=0)
        return cls(
            np.fromiter(ends, np.int32, len(weighed) + 1),
            np.concatenate([_NO_ITEMS, *(items for items, _ in weighed)]),
            np.concatenate([_NO_WEIGHTS, *(weights for _, weights in weighed)]),
            n_items,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(B, n_items)."""
        return len(self.indptr) - 1, self.n_items

    def take(self, users: Sequence[int]) -> HistoryRows:
        """The rows of these users."""
        spans = [slice(*self.indptr[user : user + 2].tolist()) for user in users]
        own = [(self.indices[span], self.data[span]) for span in spans]
        return HistoryRows.of(own, self.n_items)


def as_matrix(histories: SparseRows) -> sp.csr_matrix:
    """The same, for scipy's operations."""
    if isinstance(histories, sp.csr_matrix):
        return histories
    entries = (histories.data, histories.indices, histories.indptr)
    return sp.csr_matrix(entries, shape=histories.shape)
