"""Choose a policy on an early part of a stream, or find that none pays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory import MemoryPolicy
from feature_store.error_memory.mixture import log_losses
from pipelines.memory.intervals import Gain, over_blocks
from pipelines.memory.metrics import auc
from pipelines.memory.prequential import replay
from pipelines.memory.stream import Stream
from pipelines.progress import Reporter, Silent

FloatArray = NDArray[np.float32]
_GUARDS = ("source_share", "source_slots", "probation")


@dataclass(frozen=True)
class Trial:
    """One candidate on the validation stream, each gain averaged over the delays.

    Attributes:
        log_loss: the base's minus the candidate's.
        auc: the candidate's minus the base's; None for classes.
    """

    policy: MemoryPolicy
    log_loss: Gain
    auc: Gain | None = None

    @property
    def gain(self) -> Gain:
        """What candidates are ranked by: the ranking for scores, the log loss for classes."""
        return self.log_loss if self.auc is None else self.auc

    @property
    def certain(self) -> bool:
        """Whether it may speak: a certain gain, and for scores no loss of calibration besides.

        A log loss alone can fall because the level of all scores was wrong, while the order of
        items becomes worse.
        """
        return self.gain.lower > 0 and self.log_loss.mean >= 0


@dataclass(frozen=True)
class Tuning:
    """What came out: `policy` is switched off where no candidate's gain is certain, so that whoever
    switches it on gets the best candidate.

    Attributes:
        best: the certain candidate with the largest gain, or without one the largest gain.
    """

    policy: MemoryPolicy
    best: Trial
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
    guards: MemoryPolicy | None = None,
    reporter: Reporter | None = None,
) -> Tuning:
    """Replay `stream` through every candidate at every delay; the best certain gain wins.

    What one source may move, and after how many outcomes, is not chosen for the gain: it stays as
    it is in `guards`, the policy that serves.

    Classes are judged by log loss, scores by AUC (see `Trial`). Without a certain gain the policy
    that comes out is switched off.
    """
    policies = list(policies or candidates(stream.n_classes))
    if guards is not None:
        kept = {name: getattr(guards, name) for name in _GUARDS}
        policies = [each.model_copy(update=kept) for each in policies]
    trials = []
    with (reporter or Silent()).bar("tune the memory", len(policies)) as bar:
        for policy in policies:
            outcomes = [replay(stream, policy, delay=delay).corrected for delay in delays]
            trials.append(_trial(policy, stream, outcomes))
            bar.advance(note=f"gain {trials[-1].gain.mean:+.4f}")
    best = max(trials, key=lambda trial: (trial.certain, trial.gain.mean))
    policy = best.policy.model_copy(update={"enabled": best.certain})
    return Tuning(policy, best, tuple(trials))


def _trial(policy: MemoryPolicy, stream: Stream, outcomes: Sequence[FloatArray]) -> Trial:
    labels, base = stream.labels, stream.predictions
    saved = np.mean([log_losses(base, labels) - log_losses(o, labels) for o in outcomes], axis=0)
    log_loss = over_blocks(lambda rows: float(saved[rows].mean()), len(stream))
    if stream.n_classes > 1:
        return Trial(policy, log_loss)

    def ranked(rows: slice) -> float:
        before = auc(labels[rows], base[rows])
        return float(np.mean([auc(labels[rows], o[rows]) for o in outcomes])) - before

    return Trial(policy, log_loss, over_blocks(ranked, len(stream)))
