"""The endpoint's state, and what each route does with it."""

from __future__ import annotations

import logging
import time
import uuid
from datetime import UTC, datetime

from feature_store.offline import FeedbackLog, FeedbackRecord, Spool
from feature_store.online import OnlineStore, StoredPrediction, connect
from feature_store.registry import Registry, RegistryError
from services.recommend.loading import Served, load_served
from services.recommend.problems import ProblemError
from services.recommend.recommender import allowed_types, describe, recommend
from services.recommend.schemas import (
    FeedbackRequest,
    FeedbackResponse,
    Health,
    ModelInfo,
    Models,
    RecommendationRequest,
    RecommendationResponse,
    SimilarResponse,
)
from services.recommend.settings import ServeSettings
from services.recommend.telemetry import Telemetry
from services.recommend.users import KnownUser, Users

log = logging.getLogger(__name__)

REDIS_AWAY = "redis is unreachable: answered from what was last known"


class RecommendService:
    """One process's edition, users and feedback."""

    def __init__(self, settings: ServeSettings) -> None:
        """Loads nothing yet: `refresh` does, and may be called again and again."""
        self._settings = settings
        self._registry = Registry(settings.registry)
        self._log = FeedbackLog(settings.offline / "feedback")
        self._users = Users(
            OnlineStore(connect(settings.redis_url), tenant=settings.tenant),
            Spool(settings.offline / "spool.jsonl"),
        )
        self._served: Served | None = None
        self._not_loaded = "no version was loaded yet"
        self.telemetry = Telemetry()

    def refresh(self) -> None:
        """Look at Redis and at the alias; load the version that it names if another serves.

        The new edition is loaded beside the old one and replaces it between two requests. One
        that cannot be loaded never serves: the old one stays.
        """
        self._users.check()
        try:
            wanted = self._registry.resolve(self._settings.model, self._settings.alias)
            if self._served is not None and self._served.wanted == wanted:
                return
            served = load_served(
                self._registry,
                model=self._settings.model,
                alias=self._settings.alias,
                device=self._settings.device,
            )
        except (RegistryError, OSError) as error:
            if str(error) != self._not_loaded:
                log.error("no new version was loaded: %s", error)
            self._not_loaded = str(error)
            return
        if served.problem:
            log.error(
                "version %s serves in place of %s: %s", served.version, wanted, served.problem
            )
        self._served = served
        self.telemetry.model.clear()
        self.telemetry.model.labels(self._settings.model, served.version).set(1)

    def recommendations(self, request: RecommendationRequest) -> RecommendationResponse:
        """Answer `POST /v1/recommendations`."""
        served = self._serving()
        with self.telemetry.timed("user"):
            known = KnownUser() if request.user_id is None else self._users.get(request.user_id)
        found = recommend(served.edition, request, known, self.telemetry)
        prediction = StoredPrediction(
            prediction_id=uuid.uuid4().hex,
            user_id=request.user_id,
            model_version=served.version,
            items=tuple(item.item_id for item in found.items),
            scores=tuple(item.score for item in found.items),
            served_at_ms=time.time_ns() // 1_000_000,
        )
        with self.telemetry.timed("keep"):
            kept = self._users.keep_prediction(prediction)
        reasons = self._degraded(served, redis_away=known.degraded or not kept)
        return RecommendationResponse(
            prediction_id=prediction.prediction_id,
            model_version=served.version,
            degraded=bool(reasons),
            degraded_reasons=reasons,
            personalised=found.personalised,
            unknown_history=found.unknown,
            items=found.items,
        )

    def similar(self, item_id: str, *, k: int, item_types: list[str] | None) -> SimilarResponse:
        """Answer `GET /v1/items/{id}/similar`.

        Raises:
            ProblemError: 404 for an unknown item.
        """
        served = self._serving()
        row = served.edition.catalogue.row_of.get(item_id)
        if row is None:
            raise ProblemError(
                status=404,
                title="Unknown item",
                detail=f"version {served.version} has no item '{item_id}'",
            )
        allowed = allowed_types(served.edition, item_types)
        scores, rows = served.edition.similar(row, k=k, allowed=allowed)
        kept = rows >= 0
        reasons = self._degraded(served, redis_away=False)
        return SimilarResponse(
            prediction_id=uuid.uuid4().hex,
            model_version=served.version,
            degraded=bool(reasons),
            degraded_reasons=reasons,
            item_id=item_id,
            items=describe(served.edition, rows[kept], scores[kept]),
        )

    def feedback(self, request: FeedbackRequest) -> FeedbackResponse:
        """Answer `POST /v1/feedback`: on disk first, then into the user's history."""
        prediction = None
        if request.prediction_id is not None:
            prediction = self._users.prediction(request.prediction_id)
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
        self._log.append(record)
        applied = self._users.apply(record)
        status = {True: "applied", False: "duplicate", None: "stored"}[applied]
        self.telemetry.feedback.labels(status).inc()
        served = self._served
        return FeedbackResponse.model_validate(
            {
                "status": status,
                "known_item": served is not None
                and request.item_id in served.edition.catalogue.row_of,
                "known_prediction": None if request.prediction_id is None else bool(prediction),
                "degraded": applied is None,
            }
        )

    def models(self) -> Models:
        """Answer `GET /v1/models`."""
        name = self._settings.model
        aliases = self._registry.aliases(name)
        return Models(
            model=name,
            versions=[
                ModelInfo(
                    version=manifest.version,
                    created_at=manifest.created_at,
                    aliases=[alias for alias, v in aliases.items() if v == manifest.version],
                    serving=self._served is not None and self._served.version == manifest.version,
                    metrics=manifest.metrics,
                )
                for manifest in self._registry.versions(name)
            ],
        )

    def readiness(self) -> Health:
        """Answer `/readyz`: whether requests can be answered, and how well."""
        if self._served is None:
            return Health(status="unavailable", reasons=[self._not_loaded])
        reasons = self._degraded(self._served, redis_away=not self._users.available, count=False)
        return Health(
            status="degraded" if reasons else "ok",
            model_version=self._served.version,
            reasons=reasons,
        )

    def _serving(self) -> Served:
        if self._served is None:
            raise ProblemError(
                status=503,
                title="No model is loaded",
                detail=f"{self._not_loaded}. Train one with `errata train recommender`, or promote "
                "one with `errata registry promote`.",
            )
        return self._served

    def _degraded(self, served: Served, *, redis_away: bool, count: bool = True) -> list[str]:
        reasons = {}
        if redis_away:
            reasons["redis"] = REDIS_AWAY
        if served.problem:
            reasons["version"] = f"an earlier version serves: {served.problem}"
        if count:
            for name in reasons:
                self.telemetry.degraded.labels(name).inc()
        return list(reasons.values())
