"""One tenant's catalogue: the versions that serve it, its users, its feedback."""

from __future__ import annotations

import functools
import hashlib
import logging
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import redis

from feature_store.editions import RecommenderEdition
from feature_store.editions.additions import AddedItem
from feature_store.error_memory.remembered import Remembered
from feature_store.offline import FeedbackLog, FeedbackRecord, Spool
from feature_store.online import (
    CatalogueChanges,
    Changes,
    OnlineStore,
    StoredPrediction,
)
from feature_store.pseudonyms import Pseudonyms, differs
from feature_store.registry import Registry, RegistryError
from feature_store.vectors import single_threaded
from services.problems import ProblemError
from services.recommend.assortment import Assortment
from services.recommend.item_texts import ItemTexts
from services.recommend.loading import Served, load_served
from services.recommend.memory import Memories, MemoryStage
from services.recommend.predictions import PredictionKeeper
from services.recommend.pseudonymous import under_pseudonym
from services.recommend.recommender import Recommendation, recommend
from services.recommend.schemas import (
    FeedbackRequest,
    FeedbackResponse,
    Health,
    ItemChange,
    ItemRequest,
    ModelInfo,
    Models,
    RecommendationRequest,
    SimilarResponse,
)
from services.recommend.settings import CatalogueSettings
from services.recommend.telemetry import Telemetry
from services.recommend.users import KnownUser, Users
from services.recommend.warm_up import RecentQueries, warm_up

log = logging.getLogger(__name__)

REDIS_AWAY = "redis is unreachable: answered from what was last known"
RETRY_UNKEPT_S = "5"
CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of `POST /v1/recommendations` and when it came."""

    request: RecommendationRequest
    started: float


class CatalogueService:
    """What the routes do for one catalogue.

    Versions change between two requests: `refresh` loads and warms one beside that which serves,
    and then rebinds one name.
    """

    def __init__(
        self,
        name: str,
        settings: CatalogueSettings,
        *,
        registry: Registry,
        client: redis.Redis,
        offline: Path,
        device: str,
        telemetry: Telemetry,
        pseudonyms: Pseudonyms | None = None,
    ) -> None:
        """Loads nothing yet: `refresh` does, and may be called again and again."""
        self._pseudonyms = pseudonyms
        self._named_otherwise: dict[str, str] = {}
        self.name = name
        self._settings = settings
        self._registry = registry
        self._device = device
        self._telemetry = telemetry
        self._log = FeedbackLog(offline / "feedback")
        self._memories = Memories(
            client,
            model=settings.model,
            tenant=settings.tenant,
            window_s=settings.exposure_window_s,
            unanswered=settings.unanswered_is_left,
        )
        self._users = Users(
            OnlineStore(client, tenant=settings.tenant),
            Spool(offline / "spool.jsonl"),
            learn=self._memories.learn,
        )
        self._predictions = PredictionKeeper(
            self._users.keep_predictions, lost=telemetry.predictions_lost.inc
        )
        self._store = CatalogueChanges(client, tenant=settings.tenant)
        self._changes = Changes()
        self._arms: dict[str, Served] = {}
        self._unkept: str | None = None
        self._not_loaded: dict[str, str] = {CHAMPION: "no version was loaded yet"}
        self._recent = RecentQueries()
        challenger = settings.challenger
        self._aliases = {CHAMPION: settings.alias} | (
            {CHALLENGER: challenger} if challenger is not None else {}
        )

    @property
    def model_version(self) -> str | None:
        """The version that serves most users."""
        served = self._arms.get(CHAMPION)
        return None if served is None else served.version

    def close(self) -> None:
        """Write what waits for Redis."""
        self._predictions.close()
        self._memories.close()

    @property
    def users(self) -> Users:
        """What is known of this catalogue's users."""
        return self._users

    def remembered(self) -> list[Remembered]:
        """What is remembered of each version that serves."""
        found = []
        for served in self._arms.values():
            memory = self._memories.get(served.version)
            stage = next((each for each in served.stages if isinstance(each, MemoryStage)), None)
            if memory is not None and stage is not None:
                describe = functools.partial(
                    stage.describe, title_of=functools.partial(_title, served.assortment)
                )
                found.append(
                    Remembered(
                        title=self.name,
                        tenant=self._settings.tenant,
                        log=memory.log,
                        replica=memory.replica,
                        describe=describe,
                    )
                )
        return found

    @property
    def served(self) -> Served:
        """What serves most users.

        Raises:
            ProblemError: 503 while no version is loaded.
        """
        return self._serving()

    def refresh(self) -> None:
        """Look at Redis, at the changes of the catalogue and at the aliases; load what is new.

        A version that is corrupt or fails its warm-up never serves: the one before stays.
        """
        changed = False
        if self._unkept is not None and self._log.takes():
            log.warning("feedback is kept again")
            self._unkept = None
        if self._users.check():
            changed = self._read_changes()
            self._sweep()
        for arm, alias in self._aliases.items():
            try:
                self._refresh_arm(arm, alias, changed=changed)
            except (RegistryError, OSError) as error:
                if str(error) != self._not_loaded.get(arm):
                    log.error("no new version was loaded for %s: %s", self.name, error)
                self._not_loaded[arm] = str(error)

    def _sweep(self) -> None:
        versions = [each.version for each in self._arms.values()]
        if not versions:
            return
        try:
            self._memories.sweep(versions)
        except redis.RedisError as error:
            log.warning("exposures without an outcome were not counted: %s", error)
        for version in versions:
            if (memory := self._memories.get(version)) is not None:
                drift = memory.replica.drift
                names = (self._settings.model, version)
                self._telemetry.memory_error.labels(*names).set(drift.error)
                self._telemetry.drift.labels(*names).set(drift.rises)

    def _read_changes(self) -> bool:
        try:
            changes = self._store.since(self._changes.revision)
        except redis.RedisError as error:
            log.warning("the catalogue's changes could not be read: %s", error)
            return False
        if changes is None:
            return False
        self._changes = changes
        return True

    def _refresh_arm(self, arm: str, alias: str, *, changed: bool) -> None:
        wanted = self._registry.resolve(self._settings.model, alias)
        serving = self._arms.get(arm)
        if serving is not None and serving.wanted == wanted:
            if changed:
                assortment = serving.assortment
                served = self._prepare(assortment.base, serving.version, assortment.texts)
                self._switch(arm, served.instead_of(serving))
            return
        served = load_served(
            self._registry,
            model=self._settings.model,
            alias=alias,
            device=self._device,
            prepare=self._prepare,
            warm_up=lambda loaded: warm_up(loaded, self._recent.sample()),
        )
        if served.problem:
            log.error(
                "version %s serves in place of %s: %s", served.version, wanted, served.problem
            )
        self._compare_names(arm, served.version)
        self._switch(arm, served)

    def _compare_names(self, arm: str, version: str) -> None:
        """Say so where a version learned of users under names that are not those used here."""
        own = None if self._pseudonyms is None else self._pseudonyms.key_id
        manifest = self._registry.manifest(self._settings.model, version)
        problem = differs(manifest.user_key, own)
        self._named_otherwise.pop(arm, None)
        if problem is not None:
            self._named_otherwise[arm] = f"version {version}: {problem}"
            log.warning("version %s: %s", version, problem)

    def _prepare(
        self, edition: RecommenderEdition, version: str, texts: ItemTexts | None = None
    ) -> Served:
        """What serves of an edition: the place where corrections of the model come in."""
        return Served.of(
            edition,
            version=version,
            wanted=version,
            rules=self._settings.rules,
            added=_unpacked(self._changes),
            withdrawn=self._changes.withdrawn,
            memory=lambda assortment: self._memories.stage(assortment, version),
            texts=texts,
        )

    def _switch(self, arm: str, served: Served) -> None:
        before = self._arms.get(arm)
        self._arms = self._arms | {arm: served}  # requests hold the dictionary that they saw
        info, model = self._telemetry.model, self._settings.model
        if before is not None:
            info.labels(self.name, model, before.version, arm).set(0)
        info.labels(self.name, model, served.version, arm).set(1)

    def recommendations(self, asked: Sequence[Asked]) -> list[bytes | BaseException]:
        """The answers' JSON, computed together."""
        arms = self._arms
        if CHAMPION not in arms:
            return [self._unavailable()] * len(asked)
        known = self._known([each.request for each in asked])
        places: dict[str, list[int]] = {}
        for place, each in enumerate(asked):
            places.setdefault(self._arm_of(each.request.user_id, arms), []).append(place)
        answers: list[bytes | BaseException] = [b""] * len(asked)
        for arm, here in places.items():
            served = arms[arm]
            requests = [asked[place].request for place in here]
            of_them = [known[place] for place in here]
            found = recommend(served, requests, of_them, self._telemetry)
            bodies = self._told(served, requests, of_them, found)
            for place, body in zip(here, bodies, strict=True):
                answers[place] = body
            self._count(arm, served.version, [asked[place] for place in here])
            self._recent.remember(requests[:1], of_them[:1])
        return answers

    def _known(self, requests: Sequence[RecommendationRequest]) -> list[KnownUser]:
        with self._telemetry.timed("user"):
            ids = list({each.user_id: None for each in requests if each.user_id is not None})
            of = dict(zip(ids, self._users.get(ids), strict=True))
        return [KnownUser() if r.user_id is None else of[r.user_id] for r in requests]

    def _told(
        self,
        served: Served,
        requests: Sequence[RecommendationRequest],
        known: Sequence[KnownUser],
        found: Sequence[Recommendation | ProblemError],
    ) -> list[bytes | BaseException]:
        """Give each answer its id, keep it for its outcome, and write it down."""
        now_ms = time.time_ns() // 1_000_000
        ids = _unique(len(requests))
        predictions = [
            StoredPrediction(
                prediction_id=prediction_id,
                user_id=request.user_id,
                model_version=served.version,
                items=tuple(each.item_ids),
                scores=tuple(each.scores),
                served_at_ms=now_ms,
            )
            for prediction_id, request, each in zip(ids, requests, found, strict=True)
            if not isinstance(each, ProblemError)
        ]
        self._predictions.keep(predictions)
        self._expect(served, requests, ids, found)
        redis_away = not self._users.available
        with self._telemetry.timed("write"):
            return [
                each
                if isinstance(each, ProblemError)
                else self._body(served, prediction_id, each, redis_away=user.degraded or redis_away)
                for prediction_id, user, each in zip(ids, known, found, strict=True)
            ]

    def _expect(
        self,
        served: Served,
        requests: Sequence[RecommendationRequest],
        ids: Sequence[str],
        found: Sequence[Recommendation | ProblemError],
    ) -> None:
        """Keep what the error memory needs to learn from the outcome."""
        memory = next((each for each in served.stages if isinstance(each, MemoryStage)), None)
        if memory is None:
            return
        self._memories.keep(
            [
                memory.shown(
                    prediction_id,
                    each.user,
                    each.rows,
                    each.item_ids,
                    each.uncorrected,
                    request.user_id or "",
                    each.history,
                    each.features,
                )
                for prediction_id, request, each in zip(ids, requests, found, strict=True)
                if not isinstance(each, ProblemError) and len(each.rows)
            ]
        )

    def _body(
        self, served: Served, prediction_id: str, found: Recommendation, *, redis_away: bool
    ) -> bytes:
        reasons = self._degraded(served, redis_away=redis_away)
        return orjson.dumps(
            {
                "prediction_id": prediction_id,
                "model_version": served.version,
                "degraded": bool(reasons),
                "degraded_reasons": reasons,
                "personalised": found.personalised,
                "unknown_history": found.unknown,
                "items": orjson.Fragment(found.items),
            }
        )

    def _arm_of(self, user_id: str | None, arms: dict[str, Served]) -> str:
        """The same user always meets the same side; who is not named meets the champion."""
        if user_id is None or not self._settings.challenger_share or CHALLENGER not in arms:
            return CHAMPION
        salted = f"{self.name}\0{self._settings.challenger}\0{user_id}".encode()
        place = int.from_bytes(hashlib.blake2b(salted, digest_size=8).digest()) / 2**64
        return CHALLENGER if place < self._settings.challenger_share else CHAMPION

    def _count(self, arm: str, version: str, asked: Sequence[Asked]) -> None:
        now = time.perf_counter()
        self._telemetry.recommendations.labels(self.name, version, arm).inc(len(asked))
        seconds = self._telemetry.answer.labels(self.name, version)
        for each in asked:
            seconds.observe(now - each.started)

    def similar(self, item_id: str, *, k: int, item_types: list[str] | None) -> SimilarResponse:
        """Answer `GET /v1/items/{id}/similar`.

        Raises:
            ProblemError: 404 for an unknown item.
        """
        single_threaded()
        served = self._serving()
        assortment = served.assortment
        row = assortment.row(item_id)
        if row < 0:
            raise ProblemError(
                status=404,
                title="Unknown item",
                detail=f"version {served.version} has no item '{item_id}'",
            )
        itself = np.array([row])
        scores, rows = assortment.edition.index.search(
            assortment.vectors(itself),
            min(k, len(assortment)),
            allowed=served.allowed(item_types, None),
            hidden=[itself],
        )
        kept = rows[0] >= 0
        reasons = self._degraded(served, redis_away=False)
        return SimilarResponse.model_validate(
            {
                "prediction_id": uuid.uuid4().hex,
                "model_version": served.version,
                "degraded": bool(reasons),
                "degraded_reasons": reasons,
                "item_id": item_id,
                "items": assortment.described(rows[0][kept].tolist(), scores[0][kept].tolist()),
            }
        )

    def feedback(self, request: FeedbackRequest) -> FeedbackResponse:
        """Answer `POST /v1/feedback`: on disk first, then into the user's history.

        Raises:
            ProblemError: 503 where the disk takes nothing: what is acknowledged must be kept.
        """
        request = under_pseudonym(request, self._pseudonyms)
        prediction = None
        if request.prediction_id is not None:
            prediction = self._predictions.waiting(request.prediction_id) or self._users.prediction(
                request.prediction_id
            )
        when = request.timestamp or datetime.now(UTC)
        record = FeedbackRecord(
            feedback_id=request.feedback_id or uuid.uuid4().hex,
            user_id=request.user_id,
            item_id=request.item_id,
            type=request.type,
            weight=request.weight,
            timestamp_ms=int(when.timestamp() * 1_000),
            prediction_id=request.prediction_id,
            model_version=prediction.model_version if prediction else None,
        )
        try:
            self._log.append(record)
            applied = self._users.apply(record)
        except OSError as error:
            self._telemetry.feedback.labels("refused").inc()
            if self._unkept is None:  # once, not for each: the log may be on the same disk
                log.error("feedback cannot be kept: %s", error)
            self._unkept = f"feedback cannot be kept: {error.strerror or error}"
            raise ProblemError(
                status=503,
                title="Feedback cannot be kept",
                detail="the disk of the feedback log takes nothing; send it again later",
                headers={"Retry-After": RETRY_UNKEPT_S},
            ) from error
        self._unkept = None
        status = {True: "applied", False: "duplicate", None: "stored"}[applied]
        self._telemetry.feedback.labels(status).inc()
        if prediction is not None and applied is not False:
            kind = request.type if request.type in COUNTED_TYPES else "other"
            self._telemetry.outcomes.labels(self.name, prediction.model_version, kind).inc()
        served = self._arms.get(CHAMPION)
        return FeedbackResponse.model_validate(
            {
                "status": status,
                "known_item": served is not None and served.assortment.row(request.item_id) >= 0,
                "known_prediction": None if request.prediction_id is None else bool(prediction),
                "degraded": applied is None,
            }
        )

    def add_item(self, item_id: str, request: ItemRequest) -> ItemChange:
        """Answer `PUT /v1/items/{id}`.

        Raises:
            ProblemError: 422 where nothing says how to place it, 503 while Redis is away.
        """
        served = self._serving()
        item = AddedItem(
            item_id=item_id,
            item_type=request.item_type,
            title=request.title,
            like=tuple(request.like),
            vector=None if request.vector is None else tuple(request.vector),
            columns={name: tuple(values) for name, values in request.columns.items()},
        )
        edition = served.assortment.base
        width = edition.item_vectors.shape[1]
        if item.vector is not None and len(item.vector) != width:
            raise ProblemError(
                status=422,
                title="Wrong vector",
                detail=f"a vector of {width} numbers was wanted, got {len(item.vector)}",
            )
        known = served.assortment.row(item_id) >= 0 or any(
            each in edition.catalogue.row_of for each in item.like
        )
        if item.vector is None and not known:
            raise ProblemError(
                status=422,
                title="Nothing to place the item by",
                detail=f"version {served.version} knows none of the items in `like`; name one that "
                "it knows, or give a vector",
            )
        return self._changed(lambda: self._store.add(item_id, item.pack()), item_id, "added")

    def withdraw_item(self, item_id: str) -> ItemChange:
        """Answer `DELETE /v1/items/{id}`.

        Raises:
            ProblemError: 503 while Redis is away.
        """
        return self._changed(lambda: self._store.withdraw(item_id), item_id, "withdrawn")

    def _changed(self, change: Any, item_id: str, status: str) -> ItemChange:
        try:
            revision = change()
        except redis.RedisError as error:
            raise ProblemError(
                status=503,
                title="Redis is unreachable",
                detail="the change was not made: the catalogue's changes are kept in Redis",
            ) from error
        return ItemChange.model_validate(
            {"item_id": item_id, "status": status, "revision": revision}
        )

    def models(self) -> Models:
        """Answer `GET /v1/models`."""
        name = self._settings.model
        aliases = self._registry.aliases(name)
        serving = {served.version for served in self._arms.values()}
        return Models(
            model=name,
            versions=[
                ModelInfo(
                    version=manifest.version,
                    created_at=manifest.created_at,
                    aliases=[alias for alias, v in aliases.items() if v == manifest.version],
                    serving=manifest.version in serving,
                    metrics=manifest.metrics,
                )
                for manifest in self._registry.versions(name)
            ],
        )

    def readiness(self) -> Health:
        """Whether requests can be answered, and how well."""
        served = self._arms.get(CHAMPION)
        if served is None:
            return Health(status="unavailable", reasons=[self._not_loaded[CHAMPION]])
        reasons = self._degraded(served, redis_away=not self._users.available, count=False)
        reasons += self._named_otherwise.values()
        if self._unkept is not None:
            reasons.append(self._unkept)
        if CHALLENGER in self._aliases and CHALLENGER not in self._arms:
            missing = self._not_loaded.get(CHALLENGER, "it was not loaded yet")
            reasons.append(f"the champion serves everyone, without a challenger: {missing}")
        return Health(
            status="degraded" if reasons else "ok",
            model_version=served.version,
            reasons=reasons,
        )

    def _serving(self) -> Served:
        served = self._arms.get(CHAMPION)
        if served is None:
            raise self._unavailable()
        return served

    def _unavailable(self) -> ProblemError:
        return ProblemError(
            status=503,
            title="No model is loaded",
            detail=f"{self._not_loaded[CHAMPION]}. Train one with `errata train recommender`, or "
            "promote one with `errata registry promote`.",
        )

    def _degraded(self, served: Served, *, redis_away: bool, count: bool = True) -> list[str]:
        if not redis_away and not served.problem:
            return []
        reasons = {}
        if redis_away:
            reasons["redis"] = REDIS_AWAY
        if served.problem:
            reasons["version"] = f"an earlier version serves: {served.problem}"
        if count:
            for name in reasons:
                self._telemetry.degraded.labels(name).inc()
        return list(reasons.values())


# A label's values must be few: other types of feedback are counted together.
COUNTED_TYPES = frozenset(
    {"click", "view", "purchase", "play", "like", "dismiss", "dislike", "skip"}
)


# Seeded by the system when the process starts: `uuid4` asks the system each time, and gives the
# interpreter away for it. An id is a name, and no secret.
_random = random.Random()  # nosec B311


def _unique(n: int) -> list[str]:
    """Names that nothing else will have, 128 random bits each."""
    bits = f"{_random.getrandbits(128 * n):0{32 * n}x}" if n else ""
    return [bits[start : start + 32] for start in range(0, 32 * n, 32)]


def _title(assortment: Assortment, row: int) -> str:
    (title,), (item_id,) = assortment.titles([row]), assortment.item_ids([row])
    return title or item_id


def _unpacked(changes: Changes) -> list[AddedItem]:
    items = []
    for item_id, raw in changes.added:
        try:
            items.append(AddedItem.unpack(raw))
        except (ValueError, TypeError, KeyError) as error:
            log.error("the added item %s is unreadable and was left out: %s", item_id, error)
    return items
