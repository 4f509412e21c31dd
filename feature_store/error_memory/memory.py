"""The error memory of one model version, as one replica holds it."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from feature_store.error_memory.batch import ErrorBatch
from feature_store.error_memory.influence import Influential, count_heard, most_influential
from feature_store.error_memory.mixture import empty_mixture, gate_open
from feature_store.error_memory.neighbours import NOTHING, empty_neighbours, half_bits
from feature_store.error_memory.passes import (
    count_moved,
    learn_weights,
    mix,
    read_neighbours,
    read_parameters,
    read_sketch,
    weigh_sources,
    write_neighbours,
    write_to_sketch,
)
from feature_store.error_memory.policy import MemoryPolicy
from feature_store.error_memory.reading import MemoryStats, Reading
from feature_store.error_memory.sketches import empty_sketch

FloatArray = NDArray[np.float32]
# Readers wait at most for this many entries to be written.
_WRITTEN_AT_ONCE = 256
_N_SOURCES = 2**14


class ErrorMemory:
    """Writes errors, reads corrections. Reading and writing threads may be different ones.

    The state depends on the entries and their order alone: replicas that read the same stream
    answer alike.

    Example:
        >>> memory = ErrorMemory(named_policy("mixture"), d=32, n_classes=3)  # doctest: +SKIP
        >>> reading = memory.read(keys, predictions)
        >>> memory.write(ErrorBatch.of(keys, labels, predictions, losses=reading.losses(labels)))
    """

    def __init__(
        self, policy: MemoryPolicy, *, d: int, n_classes: int, known_classes: int | None = None
    ) -> None:
        """`n_classes`: columns of labels and predictions, 1 for scores; `known_classes`: how many
        of them the model itself knows."""
        self.policy = policy
        self.d, self.n_classes = d, n_classes
        self._known = known_classes or n_classes
        self._lock = threading.Lock()
        self._sequence = 0
        self._rejected = 0
        self._reads = self._hits = 0
        kernels = bool(policy.kernels)
        slots = policy.slots if kernels else 1
        self._neighbours = empty_neighbours(
            n_buckets=max(_power_of_two(policy.capacity) // _power_of_two(slots), 1)
            if kernels
            else 1,
            slots=_power_of_two(slots),
            d=d,
            n_classes=n_classes,
            bits=policy.bits,
            seed=policy.seed,
        )
        self._sketches = tuple(
            empty_sketch(
                tables=each.tables,
                bits=each.bits,
                half_life=each.half_life,
                d=d,
                n_classes=n_classes,
                seed=policy.seed + 1 + place,
            )
            for place, each in enumerate(policy.sketches)
        )
        self._mixture = empty_mixture(
            n_experts=policy.n_experts,
            n_contexts=self._known if policy.contexts and n_classes > 1 else 1,
            base_prior=policy.base_prior,
        )
        self._by_source = np.zeros((_N_SOURCES + 1, 2), np.float64)  # faded count, last write
        self._parameters = read_parameters(policy, by_class=len(self._mixture.weights) > 1)

    def __len__(self) -> int:
        """Entries kept one by one."""
        return int((self._neighbours.sequence != NOTHING).sum())

    @property
    def written(self) -> int:
        """Entries ever written."""
        return self._sequence

    @property
    def speaks(self) -> bool:
        """Whether a reading would be let through by the gate now."""
        with self._lock:
            return self.policy.enabled and self._gate_open()

    def read(self, keys: FloatArray, predictions: FloatArray) -> Reading:
        """Correct `predictions` (n, C) of items whose keys are (n, d)."""
        n, experts = len(keys), self.policy.n_experts
        estimates = np.empty((n, experts, self.n_classes), np.float32)
        mixed = np.empty((n, self.n_classes), np.float32)
        contexts = np.zeros(n, np.int64)
        if not self.policy.enabled:
            estimates[:] = predictions[:, None]
            return Reading(predictions, predictions, estimates, contexts, gate_open=False)
        with self._lock:
            if self._sequence == 0:  # nothing to hear, whatever is asked
                estimates[:] = predictions[:, None]
            else:
                self._hear(keys, predictions, estimates)
            open_ = mix(self._mixture, self._parameters, predictions, estimates, contexts, mixed)
            self._reads += n
            near = len(self.policy.kernels) or experts - 1
            self._hits += count_moved(predictions, estimates, near)
        corrected = mixed if open_ else predictions
        return Reading(corrected, mixed, estimates, contexts, gate_open=open_)

    def _hear(self, keys: FloatArray, predictions: FloatArray, estimates: FloatArray) -> None:
        """Fill `estimates` (n, E, C) with what each expert says."""
        read_neighbours(
            self._neighbours,
            self._parameters,
            keys,
            predictions,
            self._sequence,
            estimates,
        )
        for place, table in enumerate(self._sketches):
            expert = 1 + len(self.policy.kernels) + place
            read_sketch(
                table,
                expert,
                self._parameters.gammas[expert - 1],
                self._parameters.evidence,
                keys,
                predictions,
                self._sequence,
                estimates,
            )

    def write(self, batch: ErrorBatch) -> None:
        """Learn from a batch, in its order.

        Raises:
            ValueError: keys or labels of another width than the memory's.
        """
        if batch.keys.shape[1] != self.d or batch.labels.shape[1] != self.n_classes:
            raise ValueError(
                f"entries of width {batch.keys.shape[1]} with {batch.labels.shape[1]} classes do "
                f"not fit a memory of width {self.d} with {self.n_classes} classes"
            )
        policy = self.policy
        losses = batch.losses
        if losses.shape[1] != policy.n_experts + 1:
            losses = np.full((len(batch), policy.n_experts + 1), np.nan, np.float32)
        gate_rate = 0.0 if policy.gate_half_life is None else np.log(2) / policy.gate_half_life
        slots = self._neighbours.keys.shape[2]
        halved = half_bits(batch.keys)
        for start in range(0, len(batch), _WRITTEN_AT_ONCE):
            part = slice(start, start + _WRITTEN_AT_ONCE)
            with self._lock:
                weights = batch.weights[part].copy()
                self._rejected += weigh_sources(
                    self._by_source,
                    batch.sources[part],
                    weights,
                    self._sequence,
                    policy.source_share,
                )
                if policy.kernels:
                    write_neighbours(
                        self._neighbours,
                        batch.keys[part],
                        halved[part],
                        batch.labels[part],
                        batch.predictions[part],
                        weights,
                        batch.sources[part],
                        batch.feedback_ids[part],
                        batch.time_ms[part],
                        self._sequence,
                        max(int(slots * policy.source_slots), 1),
                    )
                for table in self._sketches:
                    write_to_sketch(
                        table,
                        batch.keys[part],
                        batch.labels[part],
                        batch.predictions[part],
                        weights,
                        self._sequence,
                    )
                learn_weights(
                    self._mixture,
                    losses[part],
                    batch.contexts[part],
                    weights,
                    policy.learning_rate,
                    policy.share,
                    policy.loss_cap,
                    gate_rate,
                )
                self._sequence += len(weights)

    def warm_up(self) -> None:
        """Compile what reads, writes and explains, so that no request waits for it; changes
        nothing."""
        small = ErrorMemory(
            self.policy.model_copy(update={"capacity": 64, "slots": 1, "enabled": True}),
            d=self.d,
            n_classes=self.n_classes,
        )
        keys = np.zeros((1, self.d), np.float32)
        predictions = np.full((1, self.n_classes), 1 / max(self.n_classes, 2), np.float32)
        losses = small.read(keys, predictions).losses(predictions)
        small.write(ErrorBatch.of(keys, predictions, predictions, losses=losses))
        small.read(keys, predictions)  # before, there was nothing to hear
        small.heard(keys)

    def advance(self, number: int) -> None:
        """The next entry's number is `number`: what was left out makes the others older."""
        with self._lock:
            self._sequence = max(self._sequence, number)

    def influential(self, k: int, *, at: FloatArray | None = None) -> Influential:
        """The `k` stored errors that speak loudest now, anywhere or to a prediction whose key is
        `at` (d,); none where a policy keeps none one by one."""
        kernels = self._parameters.kernels
        with self._lock:
            trust = self._mixture.weights.mean(0)[1 : 1 + len(kernels.beta_of)]
            return most_influential(
                self._neighbours,
                kernels,
                trust,
                now=self._sequence,
                k=k if len(trust) else 0,
                at=at,
                probes=self._parameters.probes,
            )

    def heard(self, keys: FloatArray) -> NDArray[np.int64]:
        """(n,) how many stored errors are near each of the keys (n, d)."""
        out = np.zeros(len(keys), np.int64)
        if self.policy.kernels:
            with self._lock:
                count_heard(
                    self._neighbours,
                    self._parameters.kernels,
                    self._parameters.probes,
                    keys,
                    self._sequence,
                    out,
                )
        return out

    def stats(self) -> MemoryStats:
        """See `MemoryStats`."""
        with self._lock:
            excess, count = self._mixture.excess
            mean = self._mixture.weights.mean(0)
            arrays = [*self._neighbours, *(a for s in self._sketches for a in s[:3])]
            return MemoryStats(
                entries=len(self),
                written=self._sequence,
                capacity=self.policy.capacity,
                rejected=self._rejected,
                reads=self._reads,
                hits=self._hits,
                gate_open=self._gate_open(),
                enabled=self.policy.enabled,
                excess_loss=float(excess / count) if count > 0 else 0.0,
                weights=dict(zip(self.policy.expert_names, mean.tolist(), strict=True)),
                bytes=sum(array.nbytes for array in arrays),
            )

    def _gate_open(self) -> bool:
        return self.policy.gate_half_life is None or bool(
            gate_open(self._mixture, self.policy.probation)
        )


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()
