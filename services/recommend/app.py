"""Routes of the recommendation endpoint."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Annotated

import torch
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from services.recommend import problems
from services.recommend.problems import documented
from services.recommend.schemas import (
    MAX_K,
    FeedbackRequest,
    FeedbackResponse,
    Health,
    ItemId,
    Models,
    RecommendationRequest,
    RecommendationResponse,
    SimilarResponse,
)
from services.recommend.service import RecommendService
from services.recommend.settings import ServeSettings

log = logging.getLogger(__name__)

DESCRIPTION = """Recommendations that know of a click within a second.

Every answer carries a `prediction_id`: send it back with `POST /v1/feedback`. An answer that was
given without a dependency says `degraded: true` and why. Errors are RFC 9457 problem documents.
"""


def create_app(settings: ServeSettings) -> FastAPI:
    """The application; the edition is loaded before the first request."""
    service = RecommendService(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        # A request is small: a pool of threads per operation costs more than it brings.
        torch.set_num_threads(1)
        await asyncio.to_thread(service.refresh)
        refreshing = asyncio.create_task(_refresh_forever(service, settings.refresh_s))
        yield
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing

    app = FastAPI(
        title="Errata",
        version=settings.code_version,
        description=DESCRIPTION,
        lifespan=lifespan,
    )
    problems.install(app)
    _count_requests(app, service)
    _add_routes(app, service)
    return app


def _add_routes(app: FastAPI, service: RecommendService) -> None:
    @app.post("/v1/recommendations", tags=["recommend"], responses=documented(400, 422, 503))
    def recommendations(request: RecommendationRequest) -> RecommendationResponse:
        """Rank the catalogue for a user, for an anonymous history, or for nobody in particular."""
        return service.recommendations(request)

    @app.get(
        "/v1/items/{item_id:path}/similar", tags=["recommend"], responses=documented(404, 422, 503)
    )
    def similar(
        item_id: Annotated[ItemId, Path(examples=["50"])],
        k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
        item_type: Annotated[list[str] | None, Query(max_length=64)] = None,
    ) -> SimilarResponse:
        """The items nearest to one item."""
        return service.similar(item_id, k=k, item_types=item_type)

    @app.post("/v1/feedback", tags=["correct"], responses=documented(400, 422))
    def feedback(request: FeedbackRequest) -> FeedbackResponse:
        """Say what a user did: the user's next answer knows of it."""
        return service.feedback(request)

    @app.get("/v1/models", tags=["operate"], responses=documented(422))
    def models() -> Models:
        """The registry's versions."""
        return service.models()

    @app.get("/healthz", tags=["operate"])
    def healthz() -> Health:
        """Whether the process is alive."""
        return Health(status="ok")

    @app.get("/readyz", tags=["operate"], responses={503: {"model": Health}})
    def readyz() -> Response:
        """Whether requests can be answered; `degraded` still answers."""
        health = service.readiness()
        status = 503 if health.status == "unavailable" else 200
        return JSONResponse(health.model_dump(), status_code=status)

    @app.get("/metrics", tags=["operate"])
    def metrics() -> Response:
        """Prometheus's text format."""
        return Response(service.telemetry.exposition(), media_type="text/plain; version=0.0.4")


def _count_requests(app: FastAPI, service: RecommendService) -> None:
    @app.middleware("http")
    async def count(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        started = time.perf_counter()
        status = 500
        try:
            response = await call_next(request)
            status = response.status_code
            return response
        finally:
            # The route's template, not the path: one time series a route, not one an item.
            route = getattr(request.scope.get("route"), "path_format", "unknown")
            service.telemetry.requests.labels(route, str(status)).inc()
            service.telemetry.latency.labels(route).observe(time.perf_counter() - started)


async def _refresh_forever(service: RecommendService, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await asyncio.to_thread(service.refresh)
        except Exception:  # whatever it was, the next promotion must still be seen
            log.exception("the refresh failed; trying again in %s s", every_s)
