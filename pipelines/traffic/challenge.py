"""A new traffic version against the one that serves, on the flows that the new one held out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.traffic import TrafficEdition
from feature_store.registry import Manifest
from pipelines.challenge import Challenge, Rule, Window, decide, seen_by
from pipelines.traffic.metrics import accuracy, macro_f1
from pipelines.traffic.pipeline import Run

IntArray = NDArray[np.int64]
METRICS: dict[str, Callable[[IntArray, IntArray, int], float]] = {
    "macro_f1": lambda label, found, classes: macro_f1(label, found, classes=classes),
    "accuracy": lambda label, found, _: accuracy(label, found),
}
_RESAMPLES = 1_000


def challenge(
    done: Run,
    champion: tuple[TrafficEdition, Manifest] | None,
    *,
    metric: str,
    margin: float,
    rule: Rule,
    seed: int = 0,
) -> Challenge:
    """Compare what `done` published with the champion on the flows that `done` tested on.

    The interval is a paired bootstrap over recordings where there are ten or more, else over
    flows.

    Raises:
        ValueError: an unknown metric.
    """
    if metric not in METRICS:
        raise ValueError(f"--metric: no '{metric}' among {', '.join(METRICS)}")
    test, classes = done.parts.test, done.edition.classes
    begins = _iso(int(test.flows.flow["first_ns"].min()))
    ours = done.edition.probability(test.flows).argmax(axis=1).astype(np.int64)
    measure = METRICS[metric]
    value = measure(test.label, ours, len(classes))
    if champion is None:
        return decide(
            metric=metric, challenger_version=done.manifest.version, champion_version=None,
            challenger=value, champion=None, difference=0.0, interval=(0.0, 0.0),
            window=Window(len(test.label), begins, "no champion"), margin=margin, rule=rule,
        )  # fmt: skip
    edition, manifest = champion
    said = edition.probability(test.flows).argmax(axis=1)
    # A class that the other does not have is a verdict that cannot be right.
    rows = np.array([classes.index(c) if c in classes else len(classes) for c in edition.classes])
    theirs = rows[said].astype(np.int64)
    n = len(classes) + 1
    draws = _draws(test.capture.astype(np.int64), seed)
    differences = np.array(
        [
            measure(test.label[draw], ours[draw], n) - measure(test.label[draw], theirs[draw], n)
            for draw in draws
        ]
    )
    low, high = np.quantile(differences, [0.025, 0.975])
    champion_value = measure(test.label, theirs, n)
    held_out = manifest.data_fingerprint == done.manifest.data_fingerprint and manifest.config.get(
        "split"
    ) == done.manifest.config.get("split")
    saw = seen_by(manifest.metrics.get("trained_until"), begins, held_out=held_out)
    return decide(
        metric=metric,
        challenger_version=done.manifest.version,
        champion_version=manifest.version,
        challenger=value,
        champion=champion_value,
        difference=value - champion_value,
        interval=(float(low), float(high)),
        window=Window(len(test.label), begins, saw),
        margin=margin,
        rule=rule,
    )


def _draws(capture: IntArray, seed: int) -> list[IntArray]:
    rng = np.random.default_rng(seed)
    n = len(capture)
    groups = [np.flatnonzero(capture == each) for each in np.unique(capture)]
    if len(groups) < 10:
        return [rng.integers(0, n, n) for _ in range(_RESAMPLES)]
    return [
        np.concatenate([groups[g] for g in rng.integers(0, len(groups), len(groups))])
        for _ in range(_RESAMPLES)
    ]


def _iso(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, UTC).isoformat(timespec="seconds")
