"""How good verdicts are: macro F1, accuracy, calibration, and telling the unknown apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15

IntArray = NDArray[np.int64]


def macro_f1(label: IntArray, found: IntArray, *, classes: int) -> float:
    """Mean F1 over the classes that occur in `label`.

    A class that is found but does not occur costs the others their precision, and has no F1.
    """
    present = np.bincount(label, minlength=classes) > 0
    scores = class_f1(label, found, classes=classes)
    return float(scores[present].mean()) if present.any() else 0.0


def class_f1(label: IntArray, found: IntArray, *, classes: int) -> NDArray[np.float64]:
    """(classes,) F1 of each; 0 where a class neither occurs nor is found."""
    hits = np.bincount(label[label == found], minlength=classes)
    truth = np.bincount(label, minlength=classes)
    claims = np.bincount(found[found >= 0], minlength=classes)
    scores: NDArray[np.float64] = 2 * hits / np.maximum(truth + claims, 1)
    return scores


def confusion_matrix(label: IntArray, found: IntArray, *, classes: int) -> IntArray:
    """(classes, classes) counts; rows are the truth. A negative `found` is left out."""
    columns = np.where(found < 0, classes, found)
    counts = np.bincount(label * (classes + 1) + columns, minlength=classes * (classes + 1))
    return counts.reshape(classes, classes + 1)[:, :classes].astype(np.int64)


def accuracy(label: IntArray, found: IntArray) -> float:
    """Share of right verdicts; 0 of none."""
    return float((label == found).mean()) if len(label) else 0.0


def calibration_error(label: IntArray, probability: NDArray[np.float32]) -> float:
    """Expected calibration error (Guo et al., 2017, equation 5) over 15 bins of equal width."""
    if not len(label):
        return 0.0
    confidence = probability.max(axis=1)
    right = probability.argmax(axis=1) == label
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    gap = np.bincount(bins, right - confidence, minlength=CALIBRATION_BINS)
    return float(np.abs(gap).sum() / counts.sum())


@dataclass(frozen=True)
class UnknownDetection:
    """How well a score tells flows of classes that were never trained on.

    Attributes:
        auroc: chance that an unknown flow scores above a known one; .5 tells nothing.
        fpr95: share of known flows above the threshold that catches 95 % of the unknown.
    """

    auroc: float
    fpr95: float


def unknown_detection(known: NDArray[np.float64], unknown: NDArray[np.float64]) -> UnknownDetection:
    """From scores that are high for what is unknown; ties count half."""
    if not len(known) or not len(unknown):
        return UnknownDetection(auroc=0.5, fpr95=1.0)
    ordered = np.sort(known)
    below = np.searchsorted(ordered, unknown, side="left")
    not_above = np.searchsorted(ordered, unknown, side="right")
    auroc = float((below + not_above).mean() / 2 / len(known))
    threshold = np.quantile(unknown, 0.05)
    return UnknownDetection(auroc=auroc, fpr95=float((known >= threshold).mean()))


def paired_interval(
    label: IntArray,
    ours: IntArray,
    theirs: IntArray,
    *,
    classes: int,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """95 % bootstrap interval of the difference in macro F1 on the same flows (ours - theirs)."""
    if resamples == 0 or not len(label):
        return (0.0, 0.0)
    gains = np.empty(resamples)
    for sample in range(resamples):
        rows = rng.integers(0, len(label), len(label))
        gains[sample] = macro_f1(label[rows], ours[rows], classes=classes) - macro_f1(
            label[rows], theirs[rows], classes=classes
        )
    low, high = np.quantile(gains, [0.025, 0.975])
    return float(low), float(high)
