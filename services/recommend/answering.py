"""A batch of requests becomes answers, which are kept until their outcome is known."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import redis
from prometheus_client import Counter, Histogram

from feature_store.online import Headroom, StoredPrediction
from services.names import unique_names
from services.problems import ProblemError
from services.recommend.loading import Served
from services.recommend.memory import Memories, MemoryStage, Shown
from services.recommend.predictions import PredictionKeeper
from services.recommend.recommender import Recommendation, recommend
from services.recommend.schemas import RecommendationRequest
from services.recommend.telemetry import Telemetry
from services.recommend.users import KnownUser, Users
from services.recommend.versions import CHAMPION, Versions
from services.recommend.warm_up import RecentQueries

log = logging.getLogger(__name__)

# What was found for the request at each place of a batch.
_Found = dict[int, Recommendation | ProblemError]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of `POST /v1/recommendations` and when it came."""

    request: RecommendationRequest
    started: float


class Answered(NamedTuple):
    """One answer until it is written down.

    Attributes:
        prediction: as the online store keeps it.
        shown: what the error memory needs to learn from its outcome.
    """

    prediction_id: str
    prediction: StoredPrediction
    shown: Shown | None


class Answering:
    """Answers requests of one catalogue with the versions that serve it."""

    def __init__(
        self,
        name: str,
        *,
        versions: Versions,
        users: Users,
        memories: Memories,
        recent: RecentQueries,
        telemetry: Telemetry,
        headroom: Headroom,
        prediction_ttl_s: int,
    ) -> None:
        """`name`: of the catalogue; `recent` is told a part of what was asked. Answers are kept for
        `prediction_ttl_s` while there is `headroom`."""
        self._name = name
        self._headroom, self._prediction_ttl_s = headroom, prediction_ttl_s
        self._versions, self._users, self._memories = versions, users, memories
        self._recent, self._telemetry = recent, telemetry
        self._series: dict[tuple[str, str], tuple[Counter, Histogram]] = {}
        self._keeper: PredictionKeeper[Answered] = PredictionKeeper(
            self._keep, lost=telemetry.predictions_lost.inc
        )

    def close(self) -> None:
        """Write what waits for Redis."""
        self._keeper.close()

    def waiting(self, prediction_id: str) -> Answered | None:
        """An answer that is not written yet."""
        return self._keeper.waiting(prediction_id)

    def answers(self, asked: Sequence[Asked]) -> list[bytes | BaseException]:
        """The answers' JSON, computed together."""
        arms = self._versions.arms
        if CHAMPION not in arms:
            return [self._versions.unavailable()] * len(asked)
        places: dict[str, list[int]] = {}
        for place, each in enumerate(asked):
            arm = self._versions.arm_of(each.request.user_id, arms)
            places.setdefault(arm, []).append(place)
        requests = [each.request for each in asked]
        answers: list[bytes | BaseException] = [b""] * len(asked)
        known, found = self._ranked(arms, places, requests)
        for arm, here in places.items():
            served = arms[arm]
            theirs, of_them = [requests[place] for place in here], [known[place] for place in here]
            bodies = self._told(served, theirs, of_them, [found[place] for place in here])
            for place, body in zip(here, bodies, strict=True):
                answers[place] = body
            self._count(arm, served.version, [asked[place] for place in here])
            self._recent.remember(theirs[:1], of_them[:1])
        return answers

    def _ranked(
        self,
        arms: Mapping[str, Served],
        places: Mapping[str, Sequence[int]],
        requests: Sequence[RecommendationRequest],
    ) -> tuple[list[KnownUser], _Found]:
        """What is known of each request's user, and what is found for it.

        Lists are computed of what is remembered while Redis is asked whether it still holds, and
        once more for those of whom something is new.
        """
        found: _Found = {}
        known: list[KnownUser] = []

        def rank(now_known: list[KnownUser]) -> None:
            for arm, here in places.items():
                new = [p for p in here if not known or known[p] is not now_known[p]]
                if new:
                    of_them = [now_known[place] for place in new]
                    theirs = [requests[place] for place in new]
                    ranked = recommend(arms[arm], theirs, of_them, self._telemetry)
                    found.update(zip(new, ranked, strict=True))
            known[:] = now_known

        rank(self._known(requests, rank))
        return known, found

    def _known(
        self,
        requests: Sequence[RecommendationRequest],
        meanwhile: Callable[[list[KnownUser]], None],
    ) -> list[KnownUser]:
        """What is known of each request's user; see `Users.get` for `meanwhile`."""
        ids = list({each.user_id: None for each in requests if each.user_id is not None})
        nobody = {p: KnownUser() for p, each in enumerate(requests) if each.user_id is None}

        def of_each(users: Sequence[KnownUser]) -> list[KnownUser]:
            of = dict(zip(ids, users, strict=True))
            return [
                nobody[place] if each.user_id is None else of[each.user_id]
                for place, each in enumerate(requests)
            ]

        with self._telemetry.timed("user") as timing:

            def guess(users: list[KnownUser]) -> None:
                began = time.perf_counter()
                meanwhile(of_each(users))
                timing.elsewhere_s = time.perf_counter() - began

            return of_each(self._users.get(ids, guess))

    def _told(
        self,
        served: Served,
        requests: Sequence[RecommendationRequest],
        known: Sequence[KnownUser],
        found: Sequence[Recommendation | ProblemError],
    ) -> list[bytes | BaseException]:
        """Give each answer its id, keep it for its outcome, and write it down."""
        now_ms = time.time_ns() // 1_000_000
        memory = next((each for each in served.stages if isinstance(each, MemoryStage)), None)
        redis_away = not self._users.available
        answered: list[Answered] = []
        bodies: list[bytes | BaseException] = []
        with self._telemetry.timed("write"):
            for prediction_id, request, user, each in zip(
                unique_names(len(requests)), requests, known, found, strict=True
            ):
                if isinstance(each, ProblemError):
                    bodies.append(each)
                    continue
                prediction = StoredPrediction(
                    prediction_id,
                    request.user_id,
                    served.version,
                    now_ms,
                )
                shown = None
                if memory is not None and len(each.rows):
                    shown = Shown(
                        prediction_id,
                        memory,
                        each.user,
                        each.rows,
                        each.uncorrected,
                        request.user_id or "",
                        each.history,
                        each.features,
                    )
                answered.append(Answered(prediction_id, prediction, shown))
                bodies.append(self._body(served, prediction_id, each, user.degraded or redis_away))
        self._keeper.keep(answered)
        return bodies

    def _body(
        self, served: Served, prediction_id: str, found: Recommendation, redis_away: bool
    ) -> bytes:
        reasons = self._versions.degraded(served, redis_away=redis_away)
        return orjson.dumps(
            {
                "prediction_id": prediction_id,
                "model_version": served.version,
                "degraded": bool(reasons),
                "degraded_reasons": reasons,
                "personalised": found.personalised,
                "unknown_history": found.unknown,
                "items": orjson.Fragment(found.written),
            }
        )

    def _count(self, arm: str, version: str, asked: Sequence[Asked]) -> None:
        now = time.perf_counter()
        series = self._series.get((version, arm))
        if series is None:  # looking one up by its labels costs more than counting
            series = self._series[version, arm] = (
                self._telemetry.recommendations.labels(self._name, version, arm),
                self._telemetry.answer.labels(self._name, version),
            )
        answers, seconds = series
        answers.inc(len(asked))
        for each in asked:
            seconds.observe(now - each.started)

    def _keep(self, answered: Sequence[Answered]) -> bool:
        """Whether Redis took the predictions; what the error memory wants comes behind them."""
        predictions = [each.prediction for each in answered]
        if self._headroom.full or not self._users.keep_predictions(
            predictions, ttl_s=self._prediction_ttl_s
        ):
            return False
        try:
            self._memories.keep([each.shown for each in answered if each.shown is not None])
        except redis.RedisError as error:
            log.warning("answers were not kept for the error memory: %s", error)
            return False
        return True
