"""The error memory of a served version: a stage that corrects, and the outcomes it learns from."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import redis
from numpy.typing import NDArray

from feature_store.editions.memory_keys import D_PART, MemoryKeys, offsets, probabilities
from feature_store.error_memory import MemoryPolicy
from feature_store.error_memory.batch import ErrorBatch
from feature_store.error_memory.log import Appended, MemoryLog
from feature_store.error_memory.outcomes import Outcomes, Served, cases
from feature_store.error_memory.replica import MemoryReplica
from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.offline import FeedbackRecord
from services.recommend.assortment import Assortment
from services.recommend.predictions import PredictionKeeper
from services.recommend.ranking import Candidates

log = logging.getLogger(__name__)
FloatArray = NDArray[np.float32]

# The correction reaches this far down the list; below, an item would need more than it can gain.
CORRECTED = 256
# Positions whose outcome can still be learned from.
REMEMBERED = 20
# Below this many counted outcomes the memory watches and does not speak.
PROBATION = 200

DEFAULT_POLICY = MemoryPolicy.model_validate(
    {
        "probation": PROBATION,
        "base_prior": 0.5,
        "learning_rate": 0.05,
        "evidence": 3.0,
        "source_share": 0.05,
        "source_slots": 0.25,
        "kernels": [
            {"beta": beta, "half_life": half_life, "gamma": 0.0}
            for beta in (3, 30)
            for half_life in (1_000, 20_000)
        ],
        "sketches": [{"bits": 0, "half_life": 2_000, "gamma": 0.0}],
    }
)


class MemoryStage:
    """Moves the scores of the best candidates by what was wrong near them lately."""

    name = "memory"

    def __init__(self, replica: MemoryReplica, keys: MemoryKeys, version: str) -> None:
        self._replica = replica
        self._keys = keys
        self._version = version

    def offsets(self, candidates: Candidates) -> FloatArray | None:
        """See `Stage`."""
        moved = np.zeros_like(candidates.scores)
        for number, user in enumerate(candidates.users):
            rows = candidates.rows[number][:CORRECTED]
            rows = rows[rows >= 0]
            if len(rows) == 0:
                continue
            scores = candidates.scores[number][: len(rows)]
            predicted = probabilities(scores, float(scores.max()))
            reading = self._replica.read(self._keys(user, rows), predicted)
            if not reading.gate_open:
                return None
            moved[number, : len(rows)] = offsets(reading.corrected, predicted)
        return moved

    def served(
        self,
        prediction_id: str,
        user: FloatArray,
        rows: NDArray[np.int64],
        item_ids: Sequence[str],
        scores: FloatArray,
        source: str,
    ) -> Served:
        """One answer's first items, as they will be learned from; `scores` without corrections."""
        n = min(len(rows), REMEMBERED)
        keys = self._keys(user, rows[:n])
        predicted = probabilities(scores[:n], float(scores.max()))
        reading = self._replica.read(keys, predicted)
        estimates = np.concatenate([reading.estimates[:, :, 0], reading.mixed], axis=1)
        return Served(
            prediction_id=prediction_id,
            version=self._version,
            fingerprint=self._replica.policy.fingerprint(),
            names=tuple(item_ids[:n]),
            batch=cases(keys, predicted, estimates),
            source=source,
        )


class VersionMemory:
    """What one served version remembers."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        model: str,
        version: str,
        tenant: str,
        policy: MemoryPolicy = DEFAULT_POLICY,
    ) -> None:
        """Catches up if Redis answers; otherwise as soon as it does."""
        self.log = MemoryLog(client, model=model, version=version, tenant=tenant)
        self.replica = MemoryReplica(self.log, policy, d=2 * D_PART, n_classes=1)
        self._version = version
        self.replica.memory.warm_up()
        try:
            self.replica.catch_up()
        except redis.RedisError as error:
            log.warning("the error memory of %s starts empty: %s", version, error)
        self.replica.start()

    def stage(self, assortment: Assortment) -> MemoryStage:
        """The stage over a catalogue: an answer is keyed by the catalogue that it was made of."""
        return MemoryStage(self.replica, _keys(assortment), self._version)

    def close(self) -> None:
        """Stop tailing."""
        self.replica.stop()


class Memories:
    """The memories of a catalogue's served versions, and the join of outcomes."""

    def __init__(self, client: redis.Redis, *, model: str, tenant: str) -> None:
        self._client, self._model, self._tenant = client, model, tenant
        self._of: dict[str, VersionMemory] = {}
        self._outcomes = Outcomes(client, self._append, tenant=tenant)
        self._keeper: PredictionKeeper[Served] = PredictionKeeper(self._write)

    def stage(self, assortment: Assortment, version: str) -> MemoryStage:
        """The stage of a version, whose memory begins with its first catalogue."""
        memory = self._of.get(version)
        if memory is None:
            memory = VersionMemory(
                self._client, model=self._model, version=version, tenant=self._tenant
            )
            self._of[version] = memory
        return memory.stage(assortment)

    def get(self, version: str) -> VersionMemory | None:
        """The memory of a served version."""
        return self._of.get(version)

    def keep(self, served: Sequence[Served]) -> None:
        """Keep what was served for its outcome; no answer waits for that."""
        self._keeper.keep(served)

    def learn(self, record: FeedbackRecord) -> None:
        """Join one feedback with what was served; what cannot be joined is in the offline log."""
        if record.prediction_id is None:
            return
        if (served := self._keeper.waiting(record.prediction_id)) is not None:
            self._outcomes.expect([served])
        self._outcomes.outcome(
            record.prediction_id,
            record.item_id,
            0.0 if record.type in NEGATIVE_SIGNALS else 1.0,
            feedback_id=f"{record.user_id}\0{record.feedback_id}",
            weight=min(record.weight, 1.0),
            source=record.user_id,
            time_ms=record.timestamp_ms,
        )

    def sweep(self, versions: Sequence[str]) -> None:
        """Count what was left, and forget the memories of versions that serve no more."""
        self._outcomes.sweep()
        for version in [each for each in self._of if each not in versions]:
            self._of.pop(version).close()

    def close(self) -> None:
        """Write what waits, and stop every thread."""
        self._keeper.close()
        for memory in self._of.values():
            memory.close()
        self._of = {}

    def _write(self, served: Sequence[Served]) -> bool:
        try:
            self._outcomes.expect(served)
        except redis.RedisError as error:
            log.warning("answers were not kept for the error memory: %s", error)
            return False
        return True

    def _append(self, version: str, batch: ErrorBatch) -> Appended:
        memory = self._of.get(version)
        stream = memory.log if memory is not None else self._log(version)
        return stream.append(batch)

    def _log(self, version: str) -> MemoryLog:
        return MemoryLog(self._client, model=self._model, version=version, tenant=self._tenant)


def _keys(assortment: Assortment) -> MemoryKeys:
    return MemoryKeys(assortment.vectors(np.arange(len(assortment))))
