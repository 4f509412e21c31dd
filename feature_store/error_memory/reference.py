"""The memory again, slow and obvious: what tests compare the compiled one with.

Lists and dictionaries, a whole pass over the entries for every read, ages in full. Sources' caps
are `memory._weigh_sources`'s business and not told again here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.batch import ErrorBatch
from feature_store.error_memory.hashing import bucket_of, hyperplanes
from feature_store.error_memory.policy import MemoryPolicy

Vector = NDArray[np.float64]


@dataclass
class _Entry:
    number: int
    key: Vector
    kept_key: Vector  # as a half float, which the kernels measure distances to
    label: Vector
    prediction: Vector
    weight: float


@dataclass
class ReferenceMemory:
    """See `ErrorMemory`; `read` returns the corrected predictions and the estimates."""

    policy: MemoryPolicy
    d: int
    n_classes: int
    entries: list[_Entry] = field(default_factory=list)
    buckets: dict[int, list[_Entry]] = field(default_factory=dict)
    weights: list[Vector] = field(default_factory=list)
    excess: float = 0.0

    def __post_init__(self) -> None:
        policy = self.policy
        contexts = self.n_classes if policy.contexts and self.n_classes > 1 else 1
        self.weights = [self._prior() for _ in range(contexts)]
        self._planes = hyperplanes(policy.bits, self.d, seed=policy.seed).astype(np.float64)
        self._n_buckets = policy.capacity // policy.slots

    def write(self, batch: ErrorBatch) -> None:
        """Learn from a batch."""
        policy = self.policy
        for i in range(len(batch)):
            entry = _Entry(
                len(self.entries),
                batch.keys[i].astype(np.float64),
                batch.keys[i].astype(np.float16).astype(np.float64),
                batch.labels[i].astype(np.float64),
                batch.predictions[i].astype(np.float64),
                float(batch.weights[i]),
            )
            self.entries.append(entry)
            bucket = self.buckets.setdefault(self._probes(entry.key)[0], [])
            bucket.append(entry)
            del bucket[: -policy.slots]
            if (
                batch.losses.shape[1] == policy.n_experts + 1
                and not np.isnan(batch.losses[i]).any()
            ):
                self._learn(
                    batch.losses[i].astype(np.float64), int(batch.contexts[i]), entry.weight
                )

    def read(self, key: Vector, prediction: Vector) -> tuple[Vector, list[Vector]]:
        """One prediction (C,): corrected, and what each expert says."""
        policy, now = self.policy, len(self.entries)
        near = [entry for name in self._probes(key) for entry in self.buckets.get(name, [])]
        estimates = [prediction]
        for kernel in policy.kernels:
            weights = [
                entry.weight
                * math.exp(-kernel.beta * float(((key - entry.kept_key) ** 2).sum()))
                * 0.5 ** ((now - entry.number) / kernel.half_life)
                for entry in near
            ]
            estimates.append(self._estimate(near, weights, prediction, kernel.gamma))
        for place, sketch in enumerate(policy.sketches):
            shape = (sketch.tables * sketch.bits, self.d)
            planes = hyperplanes(*shape, seed=policy.seed + 1 + place).astype(np.float64)
            weights = [0.0] * now
            for table in range(sketch.tables):
                some = planes[table * sketch.bits : (table + 1) * sketch.bits]
                own = bucket_of(_code(some @ key), 2**sketch.bits)
                for i, entry in enumerate(self.entries):
                    if bucket_of(_code(some @ entry.key), 2**sketch.bits) == own:
                        age = now - entry.number
                        fade = 0.5 ** (age / sketch.half_life) if sketch.half_life else 1.0
                        weights[i] += entry.weight * fade / sketch.tables
            estimates.append(self._estimate(self.entries, weights, prediction, sketch.gamma))
        context = int(np.argmax(prediction)) if len(self.weights) > 1 else 0
        shares = self.weights[context]
        mixed = sum(
            (share * each for share, each in zip(shares, estimates, strict=True)),
            start=np.zeros(self.n_classes),
        )
        believed = policy.gate_half_life is None or self.excess <= 0
        return (mixed if believed else prediction), estimates

    def _estimate(
        self, entries: list[_Entry], weights: list[float], prediction: Vector, gamma: float
    ) -> Vector:
        total = sum(weights)
        if total <= 0:
            return prediction
        pairs = list(zip(weights, entries, strict=True))
        label = sum((w * e.label for w, e in pairs), start=np.zeros(self.n_classes)) / total
        before = sum((w * e.prediction for w, e in pairs), start=np.zeros(self.n_classes)) / total
        error = gamma * (label - prediction) + (1 - gamma) * (label - before)
        value = np.clip(prediction + total / (total + self.policy.evidence) * error, 0, 1)
        corrected: Vector = value / value.sum() if self.n_classes > 1 and value.sum() else value
        return corrected

    def _learn(self, losses: Vector, context: int, weight: float) -> None:
        policy = self.policy
        capped = np.minimum(losses, policy.loss_cap)
        new = self.weights[context] * np.exp(-policy.learning_rate * weight * capped[:-1])
        new /= new.sum()
        self.weights[context] = (1 - policy.share) * new + policy.share * self._prior()
        kept = 0.5 ** (1 / policy.gate_half_life) if policy.gate_half_life else 1.0
        self.excess = self.excess * kept + weight * (capped[-1] - capped[0])

    def _prior(self) -> Vector:
        others, base = self.policy.n_experts - 1, self.policy.base_prior
        return np.array([base, *[(1 - base) / others] * others]) if others else np.ones(1)

    def _probes(self, key: Vector) -> list[int]:
        margins = self._planes @ key
        code = _code(margins)
        flips = np.argsort(np.abs(margins), kind="stable")[: self.policy.probes - 1]
        codes = [code, *(code ^ (1 << int(bit)) for bit in flips)]
        return list(dict.fromkeys(bucket_of(each, self._n_buckets) for each in codes))


def _code(margins: Vector) -> int:
    return sum(1 << bit for bit, margin in enumerate(margins.tolist()) if margin > 0)
