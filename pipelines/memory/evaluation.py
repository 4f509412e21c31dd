"""Ways to follow a stream side by side: predict, then learn, every label late by the same delay.

    base             the published version, frozen
    memory           and its errors corrected from memory
    incremental      Adam on every batch of labels that arrives
    incremental+memory
    retrain          trained anew every period on all that is known by then
    retrain+memory   and the memory of each begins with the latest events, replayed through it

All learn from the first part too, which chooses the policy and the learning rate; only what comes
behind it is measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory import ErrorMemory, MemoryPolicy
from pipelines.memory.baselines import incremental
from pipelines.memory.intervals import Gain, over_blocks
from pipelines.memory.metrics import (
    auc,
    expected_calibration_error,
    grouped_auc,
    log_loss,
    macro_f1,
)
from pipelines.memory.prequential import BATCH, replay
from pipelines.memory.stream import Stream
from pipelines.memory.subject import Subject
from pipelines.memory.tuning import Tuning, candidates, tune
from pipelines.progress import Reporter, Silent

FloatArray = NDArray[np.float32]
Arm = Literal[
    "base", "memory", "incremental", "incremental+memory", "retrain", "retrain+memory"
]  # fmt: skip
ARMS: tuple[Arm, ...] = get_args(Arm)
LEARNING_RATES = (1e-4, 1e-3, 1e-2)
WINDOWS = 10
# A new version's memory begins with at most so many of the latest events.
REBASED = 10_000
LOWER_IS_BETTER = frozenset({"log_loss", "ece"})


@dataclass(frozen=True)
class Followed:
    """What one arm said of the measured events.

    Attributes:
        total: metric → over all of them. windows: metric → per window of time.
        gain: of the first metric over the base, paired; None for the base.
    """

    name: Arm
    total: dict[str, float]
    windows: dict[str, tuple[float, ...]]
    gain: Gain | None


@dataclass(frozen=True)
class MemoryEvaluation:
    """What came out, with what a reader must know of it.

    Attributes:
        arms: in the order of `ARMS`. begins_s: (windows,) each one's first event.
        tuning: how the policy was chosen; None where it was given.
    """

    subject: str
    metrics: tuple[str, ...]
    arms: tuple[Followed, ...]
    begins_s: tuple[float, ...]
    events: int
    delay: int
    policy: MemoryPolicy
    tuning: Tuning | None
    notes: dict[str, str]


def evaluate(
    subject: Subject,
    *,
    delay: int = BATCH,
    arms: Sequence[Arm] = ARMS,
    policy: MemoryPolicy | None = None,
    retrain_every_s: float = 86_400.0,
    reporter: Reporter | None = None,
) -> MemoryEvaluation:
    """Follow the subject's stream in every way named.

    Args:
        subject: what is followed.
        delay: in events, from a prediction to the arrival of its label.
        arms: the base is always among them.
        policy: of the memory; None chooses one on the first part, or none.
        retrain_every_s: period of `retrain`, in the stream's own time.
        reporter: progress.

    Raises:
        ValueError: too few events to choose parameters and measure.
    """
    reporter = reporter or Silent()
    stream, first = subject.stream, subject.validation
    batch = min(BATCH, delay)
    if first < 2 * batch or len(stream) - first < 2 * batch:
        raise ValueError(
            f"{len(stream):,} events, of which {first:,} choose parameters, are too few for labels "
            f"that come {delay} events late; give more, or a smaller --delay"
        )
    chosen = [name for name in ARMS if name in arms or name == "base"]
    validation, notes = stream[:first], dict(subject.notes)
    tuning = None
    if policy is None:
        if any("memory" in name for name in chosen):
            tried = candidates(stream.n_classes)[::2]
            tuning = tune(validation, delays=(delay,), policies=tried, reporter=reporter)
        policy = tuning.policy if tuning else MemoryPolicy(enabled=False)
    found: dict[Arm, FloatArray] = {"base": stream.predictions}

    def remembered(predictions: FloatArray) -> FloatArray:
        seen = replace(stream, predictions=predictions)
        return replay(seen, policy, delay=delay, batch=batch).corrected

    with reporter.bar("follow the stream", len(chosen)) as bar:
        bar.advance(note="base")
        if "memory" in chosen:
            found["memory"] = remembered(stream.predictions)
            bar.advance(note="memory")
        if any("incremental" in name for name in chosen):
            rate = _learning_rate(subject, validation, delay, batch)
            notes["learning rate"] = f"{rate:g}"
            found["incremental"] = incremental(
                stream, subject.network(), delay=delay, learning_rate=rate, batch=batch
            )
            bar.advance(note="incremental")
            if "incremental+memory" in chosen:
                found["incremental+memory"] = remembered(found["incremental"])
                bar.advance(note="incremental+memory")
        if any("retrain" in name for name in chosen):
            times = _retrain_times(stream, first, retrain_every_s)
            plain, corrected, trained = _retrained(subject, times, policy, delay, batch, reporter)
            notes["retrained"] = f"{trained} times, every {retrain_every_s / 3600:g} h"
            found["retrain"], found["retrain+memory"] = plain, corrected
            bar.advance(2, note="retrain")
    measured = stream[first:]
    return MemoryEvaluation(
        subject=subject.name,
        metrics=tuple(METRICS[stream.n_classes > 1]),
        arms=tuple(
            _measure(name, measured, found[name][first:]) for name in chosen if name in found
        ),
        begins_s=tuple(float(measured.time_s[rows.start]) for rows in _windows(len(measured))),
        events=len(measured),
        delay=delay,
        policy=policy,
        tuning=tuning,
        notes=notes,
    )


def _learning_rate(subject: Subject, validation: Stream, delay: int, batch: int) -> float:
    def loss(rate: float) -> float:
        said = incremental(
            validation, subject.network(), delay=delay, learning_rate=rate, batch=batch
        )
        return log_loss(validation.labels, said)

    return min(LEARNING_RATES, key=loss)


def _retrain_times(stream: Stream, first: int, every_s: float) -> list[int]:
    """The first event behind the end of each period; nothing is trained where nothing is new."""
    start, last = float(stream.time_s[first]), float(stream.time_s[-1])
    ends = np.arange(start, last, every_s)
    places = np.unique(np.searchsorted(stream.time_s, ends))
    return [int(place) for place in places if place >= first]


def _retrained(
    subject: Subject,
    times: Sequence[int],
    policy: MemoryPolicy,
    delay: int,
    batch: int,
    reporter: Reporter,
) -> tuple[FloatArray, FloatArray, int]:
    stream = subject.stream
    plain = stream.predictions.copy()
    corrected = plain.copy()
    trained = 0
    seen = stream
    bounds = [0, *times, len(stream)]
    with reporter.bar("retrain", len(times)) as bar:
        for start, stop in itertools.pairwise(bounds):
            if start > 0 or start in times:
                known = max(start - delay, 0)
                newer = subject.retrained(known)
                bar.advance(note=f"on {known:,} events and what came before")
                if newer is not None:
                    seen, trained = newer, trained + 1
            # What is known when this version begins goes through it, then its own time.
            begin = max(0, start - REBASED)
            memory = ErrorMemory(policy, d=seen.keys.shape[1], n_classes=stream.n_classes)
            told = replay(seen[begin:stop], policy, delay=delay, batch=batch, memory=memory)
            plain[start:stop] = seen.predictions[start:stop]
            corrected[start:stop] = told.corrected[start - begin :]
    return plain, corrected, trained


def _measure(name: Arm, stream: Stream, said: FloatArray) -> Followed:
    metrics = METRICS[stream.n_classes > 1]
    parts = _windows(len(stream))
    main = next(iter(metrics))

    def gain(rows: slice) -> float:
        part = stream[rows]
        return metrics[main](part, said[rows]) - metrics[main](part, part.predictions)

    return Followed(
        name=name,
        total={metric: of(stream, said) for metric, of in metrics.items()},
        windows={
            metric: tuple(of(stream[rows], said[rows]) for rows in parts)
            for metric, of in metrics.items()
        },
        gain=None if name == "base" else over_blocks(gain, len(stream)),
    )


def _windows(n: int) -> list[slice]:
    edges = np.linspace(0, n, min(WINDOWS, n) + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


Metric = Callable[[Stream, FloatArray], float]
METRICS: dict[bool, dict[str, Metric]] = {
    False: {
        "auc": lambda stream, said: auc(stream.labels, said),
        "gauc": lambda stream, said: grouped_auc(stream.labels, said, stream.groups),
        "log_loss": lambda stream, said: log_loss(stream.labels, said),
    },
    True: {
        "macro_f1": lambda stream, said: macro_f1(stream.labels, said),
        "log_loss": lambda stream, said: log_loss(stream.labels, said),
        "ece": lambda stream, said: expected_calibration_error(stream.labels, said),
    },
}
"""By whether there are classes; the first is what arms are compared by."""
