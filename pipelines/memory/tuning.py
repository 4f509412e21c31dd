"""Choose a policy on an early part of a stream, or find that none pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory import MemoryPolicy, named_policy
from feature_store.error_memory.mixture import log_losses
from pipelines.memory.prequential import replay
from pipelines.memory.stream import Stream
from pipelines.progress import Reporter, Silent

_BLOCKS = 50


@dataclass(frozen=True)
class Trial:
    """One candidate on the validation stream.

    Attributes:
        gain: mean log loss of the base minus the candidate's, averaged over the delays.
        lower, upper: 95 % interval of the gain, from blocks of time.
    """

    policy: MemoryPolicy
    gain: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Tuning:
    """What came out: `policy` is switched off where no candidate's interval lies above 0."""

    policy: MemoryPolicy
    trials: tuple[Trial, ...]


def candidates(n_classes: int) -> list[MemoryPolicy]:
    """The policies that `tune` tries: sharp and smooth kernels, fast and slow sketches of the whole
    key, each with a bold and a cautious prior."""
    kernels: list[dict[str, Any]] = [
        {"beta": beta, "half_life": half_life}
        for beta in (10, 100, 1000)
        for half_life in (500, 5_000, 50_000)
    ]
    slow: list[dict[str, Any]] = [
        {"bits": 12, "tables": 4, "half_life": h, "gamma": 0.0} for h in (5_000, 50_000)
    ]
    shapes: list[dict[str, Any]] = [
        {"kernels": kernels},
        {"kernels": kernels, "sketches": slow},
        {"sketches": slow},
    ]
    if n_classes > 1:
        # The published memory as an expert: then the mixture cannot lose much to it.
        paper: dict[str, Any] = {"bits": 16, "tables": 16}
        shapes.append(
            {
                "kernels": kernels,
                "sketches": [paper, paper | {"half_life": 20_000}, paper | {"gamma": 0.0}],
            }
        )
    else:
        shapes.append({"kernels": [each | {"gamma": 0.0} for each in kernels], "sketches": slow})
    return [
        MemoryPolicy.model_validate(
            {"bits": 18, "base_prior": 0.3, "learning_rate": rate, "evidence": evidence} | shape
        )
        for shape in shapes
        for rate in (0.02, 0.05)
        for evidence in (0.3, 3.0)
    ]


def tune(
    stream: Stream,
    *,
    delays: Sequence[int],
    policies: Sequence[MemoryPolicy] | None = None,
    reporter: Reporter | None = None,
) -> Tuning:
    """Replay `stream` through every candidate at every delay; the best is the one whose log loss
    is lowest on average. One whose gain over the base is not certain is switched off."""
    base = log_losses(stream.predictions, stream.labels)
    trials = []
    policies = list(policies or candidates(stream.n_classes))
    with (reporter or Silent()).bar("tune the memory", len(policies)) as bar:
        for policy in policies:
            gains = [
                base - log_losses(replay(stream, policy, delay=delay).corrected, stream.labels)
                for delay in delays
            ]
            trials.append(_trial(policy, np.mean(np.array(gains, np.float64), axis=0)))
            bar.advance(note=f"gain {trials[-1].gain:+.4f}")
    best = max(trials, key=lambda trial: trial.gain)
    policy = best.policy if best.lower > 0 else named_policy("off")
    return Tuning(policy, tuple(trials))


def _trial(policy: MemoryPolicy, gains: NDArray[np.float64]) -> Trial:
    # Errors come in bursts: blocks of time, not events, are what can be resampled.
    blocks = np.array([block.mean() for block in np.array_split(gains, _BLOCKS) if len(block)])
    half = 1.96 * blocks.std(ddof=1) / np.sqrt(len(blocks)) if len(blocks) > 1 else np.inf
    mean = float(gains.mean())
    return Trial(policy, mean, mean - float(half), mean + float(half))
