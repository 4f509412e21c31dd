"""The error memory of a served version: a stage that corrects, and the outcomes it learns from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import redis
from numpy.typing import NDArray

from feature_store.editions.corrections import list_offsets
from feature_store.editions.memory_keys import D_PART, MemoryKeys, probabilities
from feature_store.editions.recommender import RecommenderEdition
from feature_store.editions.replaying import RecommenderReplay, pack_case
from feature_store.error_memory import MemoryPolicy
from feature_store.error_memory.batch import ErrorBatch
from feature_store.error_memory.drift import alarm_with
from feature_store.error_memory.events import (
    EventLog,
    LabelledEvent,
    Rebased,
    learn_anew,
    rebase,
)
from feature_store.error_memory.influence import Influential
from feature_store.error_memory.log import Appended, MemoryLog
from feature_store.error_memory.outcomes import EXPOSURE_WINDOW_S, Expected, Outcomes, cases
from feature_store.error_memory.remembered import Described
from feature_store.error_memory.replica import MemoryReplica
from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.offline import FeedbackRecord
from feature_store.pacing import Pause, no_pause
from services.recommend.assortment import Assortment
from services.recommend.memory_policy import DEFAULT_POLICY
from services.recommend.ranking import Candidates

log = logging.getLogger(__name__)
FloatArray = NDArray[np.float32]

# Positions whose outcome can still be learned from.
REMEMBERED = 20


class Shown(NamedTuple):
    """One answer, as it is until its outcome is worth computing something for.

    Attributes:
        stage: of the catalogue that the answer was made of.
        user: (d + r,) the user's vector.
        rows, scores: (n,) its items, and their scores without corrections.
        source: who will say the outcome.
        history, features: what the model saw of the user, for the versions to come.
    """

    prediction_id: str
    stage: MemoryStage
    user: FloatArray
    rows: NDArray[np.int64]
    scores: FloatArray
    source: str
    history: bytes
    features: Mapping[str, Any]


class MemoryStage:
    """Moves the scores of the best candidates by what was wrong near them lately."""

    name = "memory"

    def __init__(
        self,
        replica: MemoryReplica,
        keys: MemoryKeys,
        version: str,
        item_ids: Callable[[list[int]], list[str]],
    ) -> None:
        """`item_ids`: of rows that `keys` are of."""
        self._replica = replica
        self._keys = keys
        self._version = version
        self._item_ids = item_ids

    def offsets(self, candidates: Candidates) -> FloatArray | None:
        """See `Stage`."""
        return list_offsets(
            self._replica, self._keys, candidates.users, candidates.rows, candidates.scores
        )

    def heard(self, user: FloatArray, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) how many remembered errors are near one user's items `rows`."""
        return self._replica.memory.heard(self._keys(user, rows))

    def describe(self, entries: Influential, title_of: Callable[[int], str]) -> list[Described]:
        """Remembered errors in words."""
        return [
            Described(
                about=title_of(row),
                predicted=f"{100 * float(predicted[0]):.0f} %",
                outcome="taken" if label[0] > 0.5 else "left",
            )
            for row, predicted, label in zip(
                self._keys.rows(entries.keys).tolist(),
                entries.predictions,
                entries.labels,
                strict=True,
            )
        ]

    def expected(self, shown: Sequence[Shown]) -> Expected:
        """The first items of answers of this stage, which all have some, as they will be learned
        from."""
        sizes = np.array([len(each.rows) for each in shown])
        scores = np.concatenate([each.scores for each in shown])
        starts = np.cumsum(sizes) - sizes
        best = np.maximum.reduceat(scores, starts)
        kept = np.minimum(sizes, REMEMBERED)
        lists = np.repeat(np.arange(len(shown)), kept)
        ends = np.cumsum(kept)
        places = np.arange(ends[-1]) + np.repeat(starts - (ends - kept), kept)
        rows = np.concatenate([each.rows for each in shown])[places]
        keys = self._keys.of_lists(np.stack([each.user for each in shown]), lists, rows)
        predicted = probabilities(scores[places], best[lists])
        reading = self._replica.read(keys, predicted)
        estimates = np.concatenate([reading.estimates[:, :, 0], reading.mixed], axis=1)
        names = self._item_ids(rows.tolist())
        spans = zip((ends - kept).tolist(), ends.tolist(), strict=True)
        return Expected(
            version=self._version,
            fingerprint=self._replica.policy.fingerprint(),
            prediction_ids=[each.prediction_id for each in shown],
            names=[names[start:end] for start, end in spans],
            batch=cases(keys, predicted, estimates),
            sources=[each.source for each in shown],
            cases=[pack_case(each.history, each.features) for each in shown],
        )


class VersionMemory:
    """What one served version remembers.

    Attributes:
        rebased: what it began with: recent outcomes, replayed through this version.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        model: str,
        version: str,
        tenant: str,
        edition: RecommenderEdition,
        policy: MemoryPolicy = DEFAULT_POLICY,
        rebase_again: bool = False,
        pause: Pause = no_pause,
    ) -> None:
        """Begins and catches up if Redis answers; otherwise catches up as soon as it does. `pause`
        is called meanwhile."""
        self.log = MemoryLog(client, model=model, version=version, tenant=tenant)
        self.replica = MemoryReplica(
            self.log,
            policy,
            d=2 * D_PART,
            n_classes=1,
            on_drift=alarm_with(client, model=model, version=version, tenant=tenant),
        )
        self._version, self._policy = version, policy
        self._events = EventLog(client, model=model, tenant=tenant)
        self.replica.memory.warm_up()
        pause()
        self._keys = MemoryKeys(edition.item_vectors, pause=pause)
        self._encode = RecommenderReplay(edition, self._keys)
        self.rebased: Rebased | None = None
        self._heard_until = "0-0"
        try:
            self.begin(again=rebase_again, pause=pause)
            self.replica.catch_up(pause)
        except redis.RedisError as error:
            log.warning("the error memory of %s starts empty: %s", version, error)
        self.replica.start()

    def stage(self, assortment: Assortment) -> MemoryStage:
        """The stage over a catalogue: an answer is keyed by the catalogue that it was made of."""
        keys = self._keys
        if assortment.added:
            keys = keys.followed_by(assortment.added_vectors)
        return MemoryStage(self.replica, keys, self._version, assortment.item_ids)

    def begin(self, *, again: bool = False, pause: Pause = no_pause) -> None:
        """Begin with recent outcomes, once for all replicas; `pause` is called between them.

        Raises:
            redis.RedisError: the server is gone; a later call goes on.
        """
        scratch = MemoryReplica(self.log, self._policy, d=2 * D_PART, n_classes=1)
        self._heard_until = self._events.end()
        self.rebased = rebase(
            self.log, self._events, scratch, self._encode, again=again, pause=pause
        )

    def learn_anew(self, event: LabelledEvent) -> None:
        """An outcome of another version's prediction, as this version would have predicted."""
        learn_anew(self.log, self.replica, self._encode, event)

    def learn_between(self) -> None:
        """What other versions were told since this one's memory began; an outcome counts once.

        Raises:
            redis.RedisError: the server is gone.
        """
        end = self._events.end()
        for event in self._events.since(self._heard_until):
            if event.version != self._version:
                self.learn_anew(event)
        self._heard_until = end

    def close(self) -> None:
        """Stop tailing."""
        self.replica.stop()


class Memories:
    """The memories of a catalogue's served versions, and the join of outcomes."""

    def __init__(
        self,
        client: redis.Redis,
        *,
        model: str,
        tenant: str,
        ttl_s: int,
        window_s: float = EXPOSURE_WINDOW_S,
        unanswered: bool = False,
        waiting: Callable[[str], Shown | None] = lambda _: None,
    ) -> None:
        """`ttl_s`, `window_s`, `unanswered`: see `Outcomes`; `waiting`: an answer that is not
        written."""
        self._client, self._model, self._tenant = client, model, tenant
        self._of: dict[str, VersionMemory] = {}
        self._apart = False  # whether a version is gone whose last outcomes the others lack
        self._events = EventLog(client, model=model, tenant=tenant)
        self._outcomes = Outcomes(
            client,
            self._append,
            model=model,
            tenant=tenant,
            ttl_s=ttl_s,
            window_s=window_s,
            unanswered=unanswered,
            record=self._record,
            policy_of=self._policy_of,
        )
        self._waiting = waiting

    def stage(
        self, assortment: Assortment, version: str, *, pause: Pause = no_pause
    ) -> MemoryStage:
        """The stage of a version, whose memory begins with its first catalogue; `pause` is called
        meanwhile."""
        memory = self._of.get(version)
        if memory is None:
            memory = VersionMemory(
                self._client,
                model=self._model,
                version=version,
                tenant=self._tenant,
                edition=assortment.base,
                pause=pause,
            )
            self._of[version] = memory
        return memory.stage(assortment)

    def get(self, version: str) -> VersionMemory | None:
        """The memory of a served version."""
        return self._of.get(version)

    def keep(self, shown: Sequence[Shown]) -> None:
        """Write what was shown down for its outcome.

        Raises:
            redis.RedisError: the server is gone.
        """
        of_stage: dict[MemoryStage, list[Shown]] = {}
        for each in shown:
            of_stage.setdefault(each.stage, []).append(each)
        for stage, theirs in of_stage.items():
            self._outcomes.expect(stage.expected(theirs))

    def learn(self, record: FeedbackRecord) -> None:
        """Join one feedback with what was served; what cannot be joined is in the offline log."""
        if record.prediction_id is None:
            return
        if (shown := self._waiting(record.prediction_id)) is not None:
            self.keep([shown])
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
        for memory in list(self._of.values()):
            if memory.rebased is None:  # Redis was away when the version was loaded
                memory.begin()
        gone = [each for each in self._of if each not in versions]
        for version in gone:
            self._of.pop(version).close()
        self._apart = self._apart or bool(gone)
        if self._apart:  # until now they learned alone what they were told
            for memory in list(self._of.values()):
                memory.learn_between()
            self._apart = False

    def close(self) -> None:
        """Stop every thread."""
        for memory in self._of.values():
            memory.close()
        self._of = {}

    def _record(self, event: LabelledEvent) -> None:
        """Keep an outcome for the versions to come. One of a version that serves no more teaches
        those that do."""
        self._events.append(event)
        if event.version not in self._of:
            for memory in list(self._of.values()):
                memory.learn_anew(event)

    def _policy_of(self, version: str) -> str | None:
        memory = self._of.get(version)
        return None if memory is None else memory.replica.policy.fingerprint()

    def _append(self, version: str, batch: ErrorBatch) -> Appended:
        memory = self._of.get(version)
        stream = memory.log if memory is not None else self._log(version)
        return stream.append(batch)

    def _log(self, version: str) -> MemoryLog:
        return MemoryLog(self._client, model=self._model, version=version, tenant=self._tenant)
