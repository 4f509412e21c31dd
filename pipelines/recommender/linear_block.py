"""A closed-form tail of the vectors: what a linear item–item model knows, at low rank.

The towers generalise; a linear model remembers which item follows which. At full rank it is an
n × n matrix and no inner product of short vectors, but its leading factors are:

    partial    B of EASE (`feature_store/interactions/partial.py`); V the leading right singular
               vectors of XB; a history h scores item i with (h B V)·V_i
    spectral   V the leading eigenvectors of RᵀR and Λ their eigenvalues, R = D_u^-1/2 X D_i^-1/2;
               h scores i with (h D_i^-b V Λ^a)/√|h| · √d_i V_i. With a = 0 and b = 1/2 it is
               GF-CF's ideal low-pass filter (arXiv 2108.07567), with a = 1 its first-order one.

The tail is appended to the towers' vectors, so that one search sees the sum of both scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.interactions.graph import normalise
from feature_store.interactions.partial import PartialWeights
from pipelines.recommender.factorisation import leading_eigenpairs, leading_eigenvectors

FloatArray = NDArray[np.float32]
_SAMPLED_USERS = 512


@dataclass(frozen=True)
class LinearBlock:
    """score(h, i) = (h · history) / |h|^length_power · item_i.

    Shapes:
        history: (n_items, r) float32. items: (n_items, r) float32.
    """

    history: FloatArray
    items: FloatArray
    length_power: float


def partial_block(
    interactions: sp.csr_matrix,
    weights: PartialWeights,
    *,
    targets: NDArray[np.int64],
    rank: int,
    seed: int,
) -> LinearBlock:
    """The leading factors of EASE's scores of the items `targets`.

    Args:
        interactions: (n_users, n_items).
        weights: B.
        targets: (T,) rows of the items that are ranked; the others have a zero tail.
        rank: r.
        seed: of the randomised factorisation.
    """
    transposed = interactions.T.tocsr()

    def square(block: FloatArray) -> FloatArray:
        scored = weights.times(block, targets)
        seen: FloatArray = np.asarray(transposed @ (interactions @ scored))
        return weights.transposed_times(seen, targets)

    basis = leading_eigenvectors(square, len(targets), rank, seed=seed)
    items = np.zeros((interactions.shape[1], basis.shape[1]), np.float32)
    items[targets] = basis
    return LinearBlock(history=weights.times(basis, targets), items=items, length_power=0.0)


def spectral_block(
    interactions: sp.csr_matrix,
    *,
    rank: int,
    seed: int,
    spectrum: float = 0.0,
    history_degree: float = 0.5,
) -> LinearBlock:
    """The leading eigenvectors of the normalised item–item matrix; a best score is about 1.

    Args:
        interactions: (n_users, n_items).
        rank: r.
        seed: of the randomised factorisation.
        spectrum: a, how much more the leading directions weigh.
        history_degree: b, how much a popular history item is damped.
    """
    normalised = normalise(interactions)
    transposed = normalised.T.tocsr()

    def square(block: FloatArray) -> FloatArray:
        return np.asarray(transposed @ (normalised @ block))

    basis, eigenvalues = leading_eigenpairs(square, interactions.shape[1], rank, seed=seed)
    degrees = np.maximum(np.asarray(interactions.sum(0)).ravel(), 1.0)[:, None]
    history = (basis * eigenvalues**spectrum / degrees**history_degree).astype(np.float32)
    items = (basis * np.sqrt(degrees)).astype(np.float32)
    scale = _mean_best_score(interactions, history, items, length_power=0.5)
    return LinearBlock(history=history / np.float32(scale), items=items, length_power=0.5)


def _mean_best_score(
    interactions: sp.csr_matrix, history: FloatArray, items: FloatArray, *, length_power: float
) -> float:
    """How high a user's best item scores, over some users spread through the log.

    A spectral score has no unit. With a best score of about 1, as a regression's is, one weight of
    the tail means about the same with any data, rank and power.
    """
    lengths = np.asarray(interactions.sum(1)).ravel()
    known = np.flatnonzero(lengths)
    users = known[np.linspace(0, len(known) - 1, min(len(known), _SAMPLED_USERS)).astype(np.int64)]
    scores = (interactions[users] @ history) @ items.T
    best = scores.max(1) / lengths[users] ** length_power
    return max(float(best.mean()), 1e-12)
