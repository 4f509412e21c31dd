"""Rows of a sparse matrix, cut short."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix


def keep_largest(matrix: csr_matrix, k: int) -> csr_matrix:
    """The k largest entries of every row, positive ones only; of equal ones the lower column."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((matrix.indices, -matrix.data, row))
    place = np.arange(len(order)) - matrix.indptr[row]
    kept = order[(place < k) & (matrix.data[order] > 0)]
    return csr_matrix((matrix.data[kept], (row[kept], matrix.indices[kept])), shape=matrix.shape)
