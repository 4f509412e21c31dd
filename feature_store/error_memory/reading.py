"""What is asked of a memory and what it says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.mixture import log_losses

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class KeySpace:
    """Centres and scales keys, so that a policy's β means the same for every model.

    Attributes:
        centre: (d,) float32 mean of the model's representations.
        scale: (d,) float32; a scaled key has a mean squared length of 1.
    """

    centre: FloatArray
    scale: FloatArray

    @classmethod
    def fit(cls, keys: FloatArray) -> KeySpace:
        """From a sample of representations (n, d); a constant dimension becomes 0."""
        centre, spread = keys.mean(0), keys.std(0)
        alive = spread > 1e-6
        scale = np.where(alive, 1.0 / np.maximum(spread, 1e-6), 0.0) / np.sqrt(max(alive.sum(), 1))
        return cls(centre.astype(np.float32), scale.astype(np.float32))

    @classmethod
    def joined(cls, *parts: tuple[KeySpace, float]) -> KeySpace:
        """Of keys side by side, each part with its share in what is near; shares add up to 1."""
        return cls(
            np.concatenate([space.centre for space, _ in parts]),
            np.concatenate([space.scale * np.float32(share**0.5) for space, share in parts]),
        )

    def __call__(self, keys: FloatArray) -> FloatArray:
        """(n, d) float32."""
        scaled: FloatArray = (keys - self.centre) * self.scale
        return np.ascontiguousarray(scaled, np.float32)


@dataclass(frozen=True)
class Reading:
    """What a memory says about n predictions.

    Attributes:
        corrected: (n, C) float32, what to answer.
        mixed: (n, C) float32, the experts' mixture; `corrected` unless the gate is closed.
        estimates: (n, E, C) float32, each expert's own.
        contexts: (n,) int64 row of mixing weights that was used.
        gate_open: whether the mixture was believed.
    """

    corrected: FloatArray
    mixed: FloatArray
    estimates: FloatArray
    contexts: NDArray[np.int64]
    gate_open: bool

    def losses(self, labels: FloatArray) -> FloatArray:
        """(n, E + 1) float32: the experts' and the mixture's log losses against labels (n, C)."""
        experts = log_losses(self.estimates, labels[:, None, :])
        mixed = log_losses(self.mixed, labels)
        return np.concatenate([experts, mixed[:, None]], axis=1).astype(np.float32)


@dataclass(frozen=True)
class MemoryStats:
    """A memory at a glance.

    Attributes:
        entries: kept one by one. written: ever. rejected: weighed to almost nothing by a cap.
        reads: predictions that were looked up since the process started.
        hits: of them, those that an entry was near.
        excess_loss: recent mean of the mixture's log loss minus the base's; below 0 is good.
        weights: each expert's mixing weight, averaged over contexts.
        bytes: of the tables.
    """

    entries: int
    written: int
    capacity: int
    rejected: int
    reads: int
    hits: int
    gate_open: bool
    enabled: bool
    excess_loss: float
    weights: dict[str, float]
    bytes: int
