"""How a memory is read: which experts, how they are mixed, and when they are not believed."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Gamma = float


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kernel(_Frozen):
    """An expert that weighs stored errors one by one: exp(-β ‖q - k‖²) · 2^(-age / half_life).

    With normalised weights this is the modern Hopfield read softmax(β q Kᵀ) V for keys of equal
    length, faded by age (Ramsauer et al., 2021).

    Attributes:
        beta: how near is near; keys have a mean squared length of 1.
        half_life: in entries written since.
        gamma: 0 adds the mean error to the prediction, 1 replaces it by the mean label.
    """

    beta: float = Field(gt=0)
    half_life: float = Field(gt=0)
    gamma: Gamma = Field(1.0, ge=0, le=1)


class Sketch(_Frozen):
    """An expert that keeps sums per SimHash bucket (ReLoop2, KDD 2023), here with decay.

    Attributes:
        bits: of the hash; fewer are coarser.
        tables: how many hashes are averaged (K in the paper).
        half_life: in entries; None never forgets, as in the paper.
        gamma: see `Kernel`.
    """

    bits: int = Field(16, ge=0, le=24)
    tables: int = Field(1, ge=1, le=256)
    half_life: float | None = Field(None, gt=0)
    gamma: Gamma = Field(1.0, ge=0, le=1)


class MemoryPolicy(_Frozen):
    """Everything that a read depends on beside the entries.

    The experts are the base model itself, then `kernels`, then `sketches`. Each one's estimate is
    shrunk towards the base by its evidence, W / (W + evidence), and all are mixed with weights
    that follow their recent losses (fixed share, Herbster and Warmuth, 1998). Since the losses are
    those of the estimates made when the prediction was served, a delay of the labels is felt by
    the weights: what is useless when stale loses its weight to the base.

    Attributes:
        enabled: off, a read returns the base's predictions.
        capacity: entries kept one by one, over all buckets (a power of two).
        slots: entries per bucket (a power of two); the newest stay.
        bits: of the SimHash that names the bucket.
        probes: buckets looked at: the key's own, then those across the nearest hyperplanes.
        evidence: kernel weight at which an expert is believed half.
        learning_rate: of the mixing weights, per unit of log loss.
        share: of the mixing weights that returns to the prior with every entry, so that an expert
            that was bad for long can come back at once.
        base_prior: prior weight of the base; the experts share the rest.
        contexts: whether weights are kept apart per class that the base predicts.
        loss_cap: a single loss counts at most this much.
        gate_half_life: entries over which the mixture is compared with the base; while it was
            worse, the correction is 0.
        probation: outcomes (faded with the gate's half-life) before the gate opens at all; until
            then the memory watches.
        source_share: largest share of the recent entries that count in full from one source.
        source_slots: largest share of a bucket's slots that one source may hold.
        seed: of the hashes.
    """

    enabled: bool = True
    capacity: int = Field(2**16, ge=64, le=2**24)
    slots: int = Field(32, ge=1, le=1024)
    bits: int = Field(16, ge=1, le=32)
    probes: int = Field(2, ge=1, le=8)
    kernels: tuple[Kernel, ...] = ()
    sketches: tuple[Sketch, ...] = ()
    evidence: float = Field(0.3, gt=0)
    learning_rate: float = Field(1.0, ge=0)
    share: float = Field(4e-4, ge=0, le=1)
    base_prior: float = Field(0.1, gt=0, le=1)
    contexts: bool = False
    loss_cap: float = Field(5.0, gt=0)
    gate_half_life: float | None = Field(10_000.0, gt=0)
    probation: float = Field(0.0, ge=0)
    source_share: float = Field(1.0, gt=0, le=1)
    source_slots: float = Field(1.0, gt=0, le=1)
    seed: int = 0

    @property
    def n_experts(self) -> int:
        """The base, the kernels, the sketches."""
        return 1 + len(self.kernels) + len(self.sketches)

    @property
    def expert_names(self) -> tuple[str, ...]:
        """One short name per expert."""
        kernels = (f"kernel β={k.beta:g} t½={k.half_life:g}" for k in self.kernels)
        sketches = (f"sketch 2^{s.bits} t½={s.half_life or 'inf'}" for s in self.sketches)
        return ("base", *kernels, *sketches)

    def fingerprint(self) -> str:
        """Changes when a parameter does, and not with the switch: losses of another policy's
        experts are not comparable."""
        facts = self.model_dump_json(exclude={"enabled"})
        return hashlib.sha256(facts.encode()).hexdigest()[:12]


PolicyName = Literal["mixture", "reloop2", "reloop2_gamma0", "decayed", "ring", "off"]


def named_policy(name: PolicyName) -> MemoryPolicy:
    """The policies of the literature and ours, with parameters that `tune` starts from."""
    return _NAMED[name]


# A single expert and a prior of (almost) nothing for the base: no mixing, as published.
_ALONE = {"learning_rate": 0.0, "base_prior": 1e-9, "gate_half_life": None, "capacity": 64}
_NAMED: dict[str, MemoryPolicy] = {
    "off": MemoryPolicy(enabled=False),
    "reloop2": MemoryPolicy.model_validate(
        _ALONE | {"sketches": [{"bits": 16, "tables": 70, "gamma": 1.0}]}
    ),
    "reloop2_gamma0": MemoryPolicy.model_validate(
        _ALONE | {"sketches": [{"bits": 16, "tables": 70, "gamma": 0.0}]}
    ),
    "decayed": MemoryPolicy.model_validate(
        _ALONE | {"sketches": [{"bits": 16, "tables": 70, "gamma": 0.0, "half_life": 3500}]}
    ),
    "ring": MemoryPolicy.model_validate(
        _ALONE | {"capacity": 2**16, "kernels": [{"beta": 1000, "half_life": 2000}]}
    ),
    "mixture": MemoryPolicy.model_validate(
        {
            "kernels": [
                {"beta": beta, "half_life": half_life}
                for beta in (300, 3000)
                for half_life in (200, 1000, 5000)
            ],
            "sketches": [
                {"bits": 16, "tables": 4, "half_life": 2000},
                {"bits": 12, "tables": 4, "half_life": 20_000},
            ],
        }
    ),
}
