"""Routes of the recommendation endpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Query, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.types import Scope

from services import problems
from services.access import Access, AdminPort, KeyFile, RequestId
from services.application import Application
from services.problems import documented
from services.readiness import Health, Reference
from services.recommend import browsing, documentation
from services.recommend.batcher import OverloadedError
from services.recommend.catalogue import CatalogueService
from services.recommend.direct import Shortcut, direct, header
from services.recommend.guard import Guard
from services.recommend.schemas import (
    MAX_K,
    FeedbackRequest,
    FeedbackResponse,
    ItemChange,
    ItemId,
    ItemRequest,
    Models,
    RecommendationRequest,
    RecommendationResponse,
    SimilarResponse,
)
from services.recommend.service import RecommendService, leave_what_stays, one_thread_each
from services.recommend.settings import ServeSettings

log = logging.getLogger(__name__)

DESCRIPTION = """Recommendations that know of a click within a second.

Every answer carries a `prediction_id`: send it back with `POST /v1/feedback`. An answer that was
given without a dependency says `degraded: true` and why. Errors are RFC 9457 problem documents.
A process may serve several catalogues: the header `errata-catalogue` names one.
"""
CATALOGUE_HEADER = "errata-catalogue"
CatalogueName = Annotated[
    str | None,
    Header(alias=CATALOGUE_HEADER, max_length=64, description="Which catalogue is meant."),
]
# Besides recommendations that wait, so many other requests may be under way.
OTHERS_UNDER_WAY = 256


def create_app(settings: ServeSettings, *, others: Sequence[Reference] = ()) -> Application:
    """The application; the editions are loaded before the first request.

    `others`: what else the process serves; what is there then need not be a recommender.
    `app.state.service` is the service; whatever is mounted at `/` later (a dashboard) comes behind
    the routes that are here.
    """
    service = RecommendService(settings, others=others)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        one_thread_each()
        await asyncio.to_thread(service.refresh)
        leave_what_stays()
        refreshing = asyncio.create_task(_refresh_forever(service, settings.refresh_s))
        yield
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing
        await asyncio.to_thread(service.close)

    app = Application(
        title="Errata",
        version=settings.code_version,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    problems.install(app)
    limits = settings.limits
    app.before(Shortcut, route=_add_recommendations(app, service))
    _add_routes(app, service)
    _add_operations(app, service)
    # The last that is added comes first: a refused key is counted, and named, like any request.
    if settings.api_keys is not None:
        app.before(Access, keys=KeyFile(settings.api_keys))
    if settings.admin_port is not None:
        app.before(AdminPort, port=settings.admin_port)
    app.before(
        Guard,
        telemetry=service.telemetry,
        max_body_bytes=limits.max_body_bytes,
        max_under_way=limits.max_queue + OTHERS_UNDER_WAY,
    )
    app.before(RequestId)
    documentation.install(app)
    return app


def _add_recommendations(app: FastAPI, service: RecommendService) -> APIRoute:
    async def answer(scope: Scope, request: RecommendationRequest) -> bytes:
        catalogue = header(scope, CATALOGUE_HEADER.encode())
        try:
            return await service.recommendations(catalogue, request)
        except OverloadedError as error:
            raise service.busy(error) from error

    def recommendations(
        request: RecommendationRequest, catalogue: CatalogueName = None
    ) -> RecommendationResponse:
        """Rank the catalogue for a user, for an anonymous history, or for nobody in particular."""
        raise NotImplementedError  # described here, answered by the route class

    app.router.add_api_route(
        "/v1/recommendations",
        recommendations,
        methods=["POST"],
        tags=["recommend"],
        response_model=RecommendationResponse,
        responses=documented(404, 413, 422, 503),
        route_class_override=direct(RecommendationRequest, answer, timed=service.telemetry.timed),
    )
    return next(
        each
        for each in app.router.routes
        if isinstance(each, APIRoute) and each.endpoint is recommendations
    )


def _add_routes(app: FastAPI, service: RecommendService) -> None:
    def chosen(catalogue: CatalogueName = None) -> CatalogueService:
        return service.catalogue(catalogue)

    chosen_catalogue: Any = Depends(chosen)

    @app.get(
        "/v1/items/{item_id:path}/similar", tags=["recommend"], responses=documented(404, 422, 503)
    )
    def similar(
        item_id: Annotated[ItemId, Path(examples=["50"])],
        k: Annotated[int, Query(ge=1, le=MAX_K)] = 10,
        item_type: Annotated[list[str] | None, Query(max_length=64)] = None,
        catalogue: CatalogueService = chosen_catalogue,
    ) -> SimilarResponse:
        """The items nearest to one item."""
        return catalogue.similar(item_id, k=k, item_types=item_type)

    @app.put(
        "/v1/items/{item_id:path}",
        tags=["catalogue"],
        responses=documented(400, 404, 413, 422, 503),
    )
    def add_item(
        item_id: Annotated[ItemId, Path(examples=["new-1"])],
        request: ItemRequest,
        catalogue: CatalogueService = chosen_catalogue,
    ) -> ItemChange:
        """Recommend an item that the model was not trained on, from now on."""
        return catalogue.add_item(item_id, request)

    @app.delete("/v1/items/{item_id:path}", tags=["catalogue"], responses=documented(404, 422, 503))
    def withdraw_item(
        item_id: Annotated[ItemId, Path(examples=["50"])],
        catalogue: CatalogueService = chosen_catalogue,
    ) -> ItemChange:
        """Recommend an item no more."""
        return catalogue.withdraw_item(item_id)

    @app.post("/v1/feedback", tags=["correct"], responses=documented(400, 404, 413, 422, 503))
    def feedback(
        request: FeedbackRequest, catalogue: CatalogueService = chosen_catalogue
    ) -> FeedbackResponse:
        """Say what a user did: the user's next answer knows of it."""
        return catalogue.feedback(request)

    @app.get("/v1/models", tags=["operate"], responses=documented(404, 422, 503))
    def models(catalogue: CatalogueService = chosen_catalogue) -> Models:
        """The registry's versions."""
        return catalogue.models()

    browsing.add_routes(app, chosen_catalogue)


def _add_operations(app: FastAPI, service: RecommendService) -> None:
    @app.get("/healthz", tags=["operate"])
    async def healthz() -> Health:
        """Whether the process is alive."""
        return Health(status="ok", model_version=service.catalogue(None).model_version)

    @app.get("/readyz", tags=["operate"], responses={503: {"model": Health}})
    async def readyz() -> Health:
        """Whether all that is to be served is; `degraded` still answers. See `docs/deploy.md`."""
        health = service.readiness()
        status = 503 if health.status == "unavailable" else 200
        response: Any = JSONResponse(health.model_dump(), status_code=status)
        return response  # type: ignore[no-any-return]

    @app.get("/metrics", tags=["operate"], response_class=Response)
    async def metrics() -> Response:
        """Prometheus's text format."""
        return Response(service.telemetry.exposition(), media_type="text/plain; version=0.0.4")


async def _refresh_forever(service: RecommendService, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        try:
            await asyncio.to_thread(service.refresh)
        except Exception:  # whatever it was, the next promotion must still be seen
            log.exception("the refresh failed; trying again in %s s", every_s)
