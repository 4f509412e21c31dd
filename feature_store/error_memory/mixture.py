"""From neighbours' sums to one corrected prediction, and how the experts earn their weight.

An expert's estimate is the base's prediction p, corrected as in ReLoop2 (eq. 5 and 8),

    p + λ (γ (ȳ - p) + (1 - γ)(ȳ - p̄)),    λ = W / (W + a),

with ȳ, p̄ the weighted means of labels and predictions nearby and W the weight of that evidence:
an empty or distant neighbourhood changes nothing. The estimates are averaged with weights
that follow the experts' recent log loss (Bayes' rule with a fixed share returned to the prior,
Herbster and Warmuth, 1998). The losses are those of the estimates as they were when the
prediction was served, so stale labels are felt: then the base, which is an expert too, gains.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.compiled import compiled

FloatArray = NDArray[np.float32]
# Evidence below this moves nothing, and its reciprocal is no float32.
FAINTEST = np.float32(1e-30)
# A probability below this is no more surprising than this.
SMALLEST = 1e-4


class Mixture(NamedTuple):
    """What was learned of the experts."""

    prior: NDArray[np.float64]  # (E,)
    weights: NDArray[np.float64]  # (contexts, E), each row sums to 1
    excess: NDArray[np.float64]  # (2,) faded Σ (mixture's loss - base's), faded count


def empty_mixture(*, n_experts: int, n_contexts: int, base_prior: float) -> Mixture:
    """Nothing learned: the prior."""
    prior = np.full(n_experts, (1.0 - base_prior) / max(n_experts - 1, 1))
    prior[0] = base_prior if n_experts > 1 else 1.0
    return Mixture(
        prior=prior, weights=np.tile(prior, (n_contexts, 1)), excess=np.zeros(2, np.float64)
    )


@compiled
def estimate(
    sums: FloatArray, prediction: FloatArray, gamma: float, evidence: float, out: FloatArray
) -> None:
    """One expert's estimate (C,) from its sums (1 + 2C,)."""
    n_classes = prediction.shape[0]
    weight = sums[0]
    total = np.float32(0.0)
    one = np.float32(1.0)
    heard = weight > FAINTEST
    trust, inverse = weight / (weight + np.float32(evidence)), one / weight
    for c in range(n_classes):
        value = prediction[c]
        if heard:
            label, before = sums[1 + c] * inverse, sums[1 + n_classes + c] * inverse
            new = np.float32(gamma) * (label - value)
            new += (one - np.float32(gamma)) * (label - before)
            value = min(max(value + trust * new, np.float32(0.0)), one)
        out[c] = value
        total += value
    if n_classes > 1 and total > 0:
        for c in range(n_classes):
            out[c] /= total


@compiled
def gate_open(mixture: Mixture, probation: float) -> bool:
    """Whether the mixture was, recently, no worse than the base, over enough outcomes."""
    open_: bool = mixture.excess[0] <= 0.0 and mixture.excess[1] >= probation
    return open_


@compiled
def learn(
    mixture: Mixture,
    losses: FloatArray,  # (E + 1,)
    context: int,
    weight: float,
    learning_rate: float,
    share: float,
    loss_cap: float,
    gate_rate: float,
) -> None:
    """Move the weights by one outcome."""
    weights = mixture.weights[context]
    n_experts = weights.shape[0]
    total = 0.0
    for e in range(n_experts):
        weights[e] *= np.exp(-learning_rate * weight * min(losses[e], loss_cap))
        total += weights[e]
    for e in range(n_experts):
        weights[e] = (1.0 - share) * weights[e] / total + share * mixture.prior[e]
    kept = np.exp(-gate_rate)
    excess = min(losses[n_experts], loss_cap) - min(losses[0], loss_cap)
    mixture.excess[0] = mixture.excess[0] * kept + weight * excess
    mixture.excess[1] = mixture.excess[1] * kept + weight


def log_losses(estimates: FloatArray, labels: FloatArray) -> FloatArray:
    """Log loss per row of estimates (..., C) against labels that broadcast to them.

    One column is a score in [0, 1] and its binary log loss; more are classes.
    """
    p = np.clip(estimates, SMALLEST, 1.0)
    if estimates.shape[-1] > 1:
        losses: FloatArray = -(labels * np.log(p)).sum(-1)
        return losses
    q = np.clip(1.0 - estimates, SMALLEST, 1.0)
    binary: FloatArray = -(labels * np.log(p) + (1.0 - labels) * np.log(q))[..., 0]
    return binary
