"""The inverse of a large Gram matrix, in its own memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import get_lapack_funcs

_BLOCK_ITEMS = 1_024


def invert_in_place(matrix: NDArray[np.floating], *, regularisation: float) -> None:
    """Cholesky inverse of a symmetric positive definite (N, N), without a second copy.

    LAPACK works on columns; the transposed view of a symmetric matrix is the same matrix, so the
    call overwrites ours. It fills one triangle, which is then mirrored block by block.

    Args:
        matrix: a Gram matrix with λ on its diagonal.
        regularisation: λ, for the error.

    Raises:
        ValueError: not positive definite in its precision.
    """
    potrf, potri = get_lapack_funcs(("potrf", "potri"), (matrix,))
    factor, failed = potrf(matrix.T, lower=True, overwrite_a=True, clean=False)
    if not failed:
        _, failed = potri(factor, lower=True, overwrite_c=True)
    if failed:
        raise ValueError(
            f"the Gram matrix + {regularisation}·I is not positive definite in {matrix.dtype}: "
            "raise the regularisation or the precision"
        )
    # Lower in LAPACK's columns is upper in our rows.
    for start in range(0, len(matrix), _BLOCK_ITEMS):
        stop = start + _BLOCK_ITEMS
        square = matrix[start:stop, start:stop]
        square[:] = np.triu(square) + np.triu(square, 1).T
        matrix[stop:, start:stop] = matrix[start:stop, stop:].T
