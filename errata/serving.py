"""One server for all routes: recommendations, and verdicts on traffic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from services.classify.app import CLASSIFY, VERDICTS
from services.classify.service import ClassifyService


def with_traffic(app: FastAPI, traffic: FastAPI) -> FastAPI:
    """`app`, which now also answers the routes of `traffic`, starts and stops it, describes it in
    its OpenAPI document and shows its metrics."""
    lifespan = app.router.lifespan_context
    document = app.openapi

    @asynccontextmanager
    async def both(scope: Any) -> AsyncIterator[Any]:
        async with lifespan(scope) as state, traffic.router.lifespan_context(traffic):
            yield state

    def merged() -> dict[str, Any]:
        found, more = document(), traffic.openapi()
        found["paths"] |= more["paths"]
        found.setdefault("components", {}).setdefault("schemas", {}).update(
            more.get("components", {}).get("schemas", {})
        )
        return found

    app.router.lifespan_context = both
    app.openapi = merged  # type: ignore[method-assign]
    # Outermost: an upload has bounds of its own.
    app.add_middleware(_ByPath, traffic=traffic)
    service: ClassifyService = traffic.state.classify
    app.state.service.telemetry.registry.register(service)
    app.state.ends_at_exit = [service.hub.close]
    return app


class _ByPath:
    def __init__(self, app: ASGIApp, *, traffic: ASGIApp) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        theirs = scope["type"] == "http" and scope["path"] in (CLASSIFY, VERDICTS)
        await (self._traffic if theirs else self._app)(scope, receive, send)
