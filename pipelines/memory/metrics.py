"""Metrics of streams, vectorised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from feature_store.error_memory.mixture import log_losses

FloatArray = NDArray[np.float32]


def confusion(labels: NDArray[np.int64], decisions: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """(n, n) counts, truth down, decision across."""
    return np.bincount(labels * n + decisions, minlength=n * n).reshape(n, n)


def macro_f1_of(counts: NDArray[np.int64]) -> float:
    """Mean F1 over the classes that occur or were decided."""
    present = counts.sum(0) + counts.sum(1)
    scores = 2 * np.diag(counts) / np.maximum(present, 1)
    return float(scores[present > 0].mean())


def macro_f1(labels: FloatArray, probabilities: FloatArray) -> float:
    """Of the most probable class; labels one-hot."""
    n = labels.shape[1]
    return macro_f1_of(confusion(labels.argmax(1), probabilities.argmax(1), n))


def log_loss(labels: FloatArray, probabilities: FloatArray) -> float:
    """Mean, with probabilities cut at 1e-4."""
    return float(log_losses(probabilities, labels).mean())


def auc(labels: FloatArray, scores: FloatArray) -> float:
    """Area under the ROC curve; ties count half. NaN without both kinds."""
    positive = np.asarray(labels).ravel() > 0.5
    n_positive, n = int(positive.sum()), len(positive)
    if n_positive in (0, n):
        return float("nan")
    ranks = rankdata(np.asarray(scores, np.float64).ravel())
    area = ranks[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(area / (n_positive * (n - n_positive)))


def grouped_auc(labels: FloatArray, scores: FloatArray, groups: NDArray[np.int64]) -> float:
    """GAUC: each group's AUC, weighted by its events; groups of one kind are left out."""
    positive = np.asarray(labels).ravel() > 0.5
    order = np.lexsort((np.asarray(scores).ravel(), groups))
    group, hit = groups[order], positive[order]
    value = np.asarray(scores, np.float64).ravel()[order]
    starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    sizes = np.diff(np.r_[starts, len(group)])
    # Average ranks within a group: ties share theirs.
    fresh = np.r_[True, (group[1:] != group[:-1]) | (value[1:] != value[:-1])]
    run = np.cumsum(fresh) - 1
    first = np.flatnonzero(fresh)
    last = np.r_[first[1:], len(group)] - 1
    rank = ((first + last) / 2 + 1)[run] - np.repeat(starts, sizes)
    positives = np.add.reduceat(hit.astype(np.float64), starts)
    sums = np.add.reduceat(rank * hit, starts)
    negatives = sizes - positives
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return float("nan")
    area = (sums - positives * (positives + 1) / 2)[both] / (positives * negatives)[both]
    return float((area * sizes[both]).sum() / sizes[both].sum())


def expected_calibration_error(
    labels: FloatArray, probabilities: FloatArray, *, bins: int = 15
) -> float:
    """ECE of the decided class's probability, or of a score, in bins of equal width."""
    if labels.shape[1] > 1:
        confidence = probabilities.max(1)
        right = (probabilities.argmax(1) == labels.argmax(1)).astype(np.float64)
    else:
        confidence, right = probabilities[:, 0], labels[:, 0].astype(np.float64)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    gap = np.bincount(place, confidence, bins) - np.bincount(place, right, bins)
    return float(np.abs(gap).sum() / max(counts.sum(), 1))
