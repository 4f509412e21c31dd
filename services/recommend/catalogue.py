"""One tenant's catalogue: the versions that serve it, its users, its feedback."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import redis

from feature_store.error_memory.remembered import Remembered
from feature_store.offline import FeedbackLog, FeedbackRecord, Spool
from feature_store.online import CatalogueChanges, Headroom, OnlineStore
from feature_store.pseudonyms import ONLINE, Pseudonyms, differs
from feature_store.registry import Registry
from feature_store.vectors import single_threaded
from services.names import unique_names
from services.problems import ProblemError
from services.readiness import Health, Unnamed
from services.recommend.answering import Answering, Asked
from services.recommend.assortment import Assortment
from services.recommend.item_changes import ItemChanges
from services.recommend.loading import Served
from services.recommend.memory import Memories, MemoryStage, Shown
from services.recommend.pseudonymous import under_pseudonym
from services.recommend.schemas import (
    FeedbackRequest,
    FeedbackResponse,
    ItemChange,
    ItemRequest,
    ModelInfo,
    Models,
    SimilarResponse,
)
from services.recommend.settings import CatalogueSettings
from services.recommend.telemetry import Telemetry
from services.recommend.users import Users
from services.recommend.versions import Versions
from services.recommend.warm_up import RecentQueries

log = logging.getLogger(__name__)

RETRY_UNKEPT_S = "5"
# A label's values must be few: other types of feedback are counted together.
COUNTED_TYPES = frozenset(
    {"click", "view", "purchase", "play", "like", "dismiss", "dislike", "skip"}
)


class CatalogueService:
    """What the routes do for one catalogue."""

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
        headroom: Headroom,
        prediction_ttl_s: int,
        pseudonyms: Pseudonyms | None = None,
        unnamed: Unnamed | None = None,
    ) -> None:
        """Loads nothing yet: `refresh` does, and may be called again and again.

        What is served waits `prediction_ttl_s` for its outcome, and is not kept where `headroom`,
        which others look after, says that there is none. `unnamed`: see `Versions`.
        """
        self.name = name
        self._headroom = headroom
        self._pseudonyms = pseudonyms
        self._unkept: str | None = None
        # None: Redis was not asked yet; empty: all is well.
        self._named_otherwise: str | None = None
        self._settings, self._registry, self._telemetry = settings, registry, telemetry
        self._log = FeedbackLog(offline / "feedback")
        self._memories = Memories(
            client,
            model=settings.model,
            tenant=settings.tenant,
            ttl_s=prediction_ttl_s,
            window_s=settings.exposure_window_s,
            unanswered=settings.unanswered_is_left,
            waiting=self._shown,
        )
        recent = RecentQueries()
        self._users = Users(
            OnlineStore(client, tenant=settings.tenant),
            Spool(offline / "spool.jsonl"),
            learn=self._memories.learn,
            forget=recent.forget,
        )
        self._changes = ItemChanges(CatalogueChanges(client, tenant=settings.tenant))
        self._versions = Versions(
            name,
            settings,
            registry=registry,
            device=device,
            user_key=None if pseudonyms is None else pseudonyms.key_id,
            changes=self._changes,
            memories=self._memories,
            recent=recent,
            telemetry=telemetry,
            unnamed=unnamed,
        )
        self._answering = Answering(
            name,
            versions=self._versions,
            users=self._users,
            memories=self._memories,
            recent=recent,
            telemetry=telemetry,
            headroom=headroom,
            prediction_ttl_s=prediction_ttl_s,
        )

    @property
    def model_version(self) -> str | None:
        """The version that serves most users."""
        served = self._versions.champion
        return None if served is None else served.version

    def close(self) -> None:
        """Write what waits for Redis."""
        self._versions.close()
        self._answering.close()
        self._memories.close()

    @property
    def users(self) -> Users:
        """What is known of this catalogue's users."""
        return self._users

    def remembered(self) -> list[Remembered]:
        """What is remembered of each version that serves."""
        found = []
        for served in self._versions.arms.values():
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
        return self._versions.serving()

    def refresh(self) -> None:
        """Look at Redis, at the changes of the catalogue and at the aliases; load what is new."""
        changed = False
        if self._unkept is not None and self._log.takes():
            log.warning("feedback is kept again")
            self._unkept = None
        if self._users.check():
            self._compare_names()
            changed = self._changes.read()
            self._sweep()
        self._versions.refresh(changed=changed)

    def _compare_names(self) -> None:
        """Say so, once, where Redis names users otherwise than requests will."""
        if self._named_otherwise is not None:
            return
        own = None if self._pseudonyms is None else self._pseudonyms.key_id
        try:
            others = self._users.named_by(own)
        except redis.RedisError as error:
            log.warning("Redis did not say what names its users: %s", error)
            return
        problem = differs(others, own, whose=ONLINE.format(self._settings.tenant))
        self._named_otherwise = problem or ""
        if problem:
            log.warning("%s: %s", self.name, problem)

    def _sweep(self) -> None:
        versions = [each.version for each in self._versions.arms.values()]
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

    def recommendations(self, asked: Sequence[Asked]) -> list[bytes | BaseException]:
        """The answers' JSON, computed together."""
        return self._answering.answers(asked)

    def similar(self, item_id: str, *, k: int, item_types: list[str] | None) -> SimilarResponse:
        """Answer `GET /v1/items/{id}/similar`.

        Raises:
            ProblemError: 404 for an unknown item.
        """
        single_threaded()
        served = self.served
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
        reasons = self._versions.degraded(served, redis_away=False)
        return SimilarResponse.model_validate(
            {
                "prediction_id": unique_names(1)[0],
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
            waiting = self._answering.waiting(request.prediction_id)
            prediction = (
                self._users.prediction(request.prediction_id)
                if waiting is None
                else waiting.prediction
            )
        when = request.timestamp or datetime.now(UTC)
        record = FeedbackRecord(
            feedback_id=request.feedback_id or unique_names(1)[0],
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
        served = self._versions.champion
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
        return self._changes.add(self.served, item_id, request)

    def withdraw_item(self, item_id: str) -> ItemChange:
        """Answer `DELETE /v1/items/{id}`.

        Raises:
            ProblemError: 503 while Redis is away.
        """
        return self._changes.withdraw(item_id)

    def models(self) -> Models:
        """Answer `GET /v1/models`."""
        name = self._settings.model
        aliases = self._registry.aliases(name)
        serving = {served.version for served in self._versions.arms.values()}
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

    def readiness(self) -> Health | None:
        """Whether requests can be answered, and how well; None where nobody waits for it."""
        if self._versions.left_out:
            return None
        served, missing = self._versions.champion, self._versions.missing()
        if served is None:
            return Health(status="unavailable", reasons=missing[:1])
        reasons = self._versions.degraded(served, redis_away=not self._users.available, count=False)
        reasons += self._versions.named_otherwise
        if self._named_otherwise:
            reasons.append(self._named_otherwise)
        if self._unkept is not None:
            reasons.append(self._unkept)
        if (problem := self._headroom.problem) is not None:
            reasons.append(problem)
        reasons += [
            f"the champion serves everyone, without a challenger: {each}" for each in missing
        ]
        return Health(
            status="degraded" if reasons else "ok",
            model_version=served.version,
            reasons=reasons,
        )

    def _shown(self, prediction_id: str) -> Shown | None:
        waiting = self._answering.waiting(prediction_id)
        return None if waiting is None else waiting.shown


def _title(assortment: Assortment, row: int) -> str:
    (title,), (item_id,) = assortment.titles([row]), assortment.item_ids([row])
    return title or item_id
