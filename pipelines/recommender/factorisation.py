"""Truncated factorisation of the normalised interactions: where free item vectors start."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.interactions.graph import normalise

_OVERSAMPLED, _ROUNDS = 30, 6


def item_factors(interactions: sp.csr_matrix, dimension: int, *, seed: int) -> NDArray[np.float32]:
    """V √Λ of the normalised item–item matrix, whose inner products are the item similarity.

    With R = D_users^-1/2 X D_items^-1/2 and RᵀR ≈ V Λ Vᵀ (Λ the `dimension` largest eigenvalues,
    by randomised subspace iteration, arXiv 0909.4061), scaled to a mean squared length of 1.

    Args:
        interactions: (n_users, n_items), not all zero.
        dimension: columns; missing ones, in a small catalogue, are small noise.
        seed: of the random start.

    Returns:
        (n_items, dimension) float32.
    """
    rng = np.random.default_rng(seed)
    R = normalise(sp.csr_matrix(interactions))  # (U, N)
    Rt = R.T.tocsr()
    n_items = R.shape[1]
    rank = min(dimension, min(R.shape))
    width = min(rank + _OVERSAMPLED, min(R.shape))
    Q = rng.standard_normal((n_items, width)).astype(np.float32)
    for _ in range(_ROUNDS):
        Q, _ = np.linalg.qr(Rt @ (R @ Q))
    B = R @ Q  # (U, width)
    eigenvalues, W = np.linalg.eigh(B.T @ B)
    largest = np.argsort(-eigenvalues)[:rank]
    factors = (Q @ W[:, largest]) * np.sqrt(np.maximum(eigenvalues[largest], 0.0))
    if rank < dimension:
        noise = rng.standard_normal((n_items, dimension - rank)) * 1e-3
        factors = np.concatenate([factors, noise], axis=1)
    scale = np.sqrt((factors**2).sum(1).mean())
    scaled: NDArray[np.float32] = (factors / max(scale, 1e-12)).astype(np.float32)
    return scaled
