"""One server for all routes: recommendations, and verdicts on traffic."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.application import Application
from services.classify.app import CLASSIFY, LABELS, VERDICTS
from services.classify.service import ClassifyService

FEEDBACK = "/v1/feedback"
LARGEST_LABEL_BYTES = 256_000


def with_traffic(app: Application, traffic: FastAPI) -> Application:
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
    app.before(_ByPath, traffic=traffic)
    service: ClassifyService = traffic.state.classify
    app.state.service.telemetry.registry.register(service)
    app.state.ends_at_exit = [service.hub.close]
    return app


class _ByPath:
    """Sends a request to the application that answers it. Feedback is of both kinds: one that
    carries a `label` is about a flow, any other about an item."""

    def __init__(self, app: ASGIApp, *, traffic: ASGIApp) -> None:
        self._app = app
        self._traffic = traffic

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        theirs = scope["type"] == "http" and (
            scope["path"] in (CLASSIFY, VERDICTS, LABELS)
            or scope["path"].startswith(f"{VERDICTS}/")
        )
        if scope["type"] == "http" and scope["path"] == FEEDBACK and scope["method"] == "POST":
            first = await receive()
            receive = _again(first, receive)
            if _names_a_label(first):
                scope, theirs = {**scope, "path": LABELS, "raw_path": LABELS.encode()}, True
        await (self._traffic if theirs else self._app)(scope, receive, send)


def _again(first: Message, receive: Receive) -> Receive:
    """`receive`, as if `first` had not been taken yet."""
    waiting = [first]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _names_a_label(message: Message) -> bool:
    """Whether this is a whole, small JSON body with a label."""
    body = message.get("body", b"")
    if message.get("more_body") or len(body) > LARGEST_LABEL_BYTES or b'"label' not in body:
        return False
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(found, dict) and ("label" in found or "labels" in found)
