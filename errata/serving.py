"""One server for all routes: recommendations, and verdicts on traffic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feature_store.registry.names import TRAFFIC
from services.application import Application
from services.classify.app import CLASSIFY, LABELS, VERDICTS
from services.classify.service import ClassifyService

FEEDBACK = "/v1/feedback"
LARGEST_LABEL_BYTES = 256_000


def with_traffic(app: Application, traffic: FastAPI) -> Application:
    """`app`, which now also answers the routes of `traffic`, starts and stops it, describes it in
    its OpenAPI document, shows its metrics and is as ready as both are."""
    lifespan = app.router.lifespan_context
    document = app.openapi

    @asynccontextmanager
    async def both(scope: Any) -> AsyncIterator[Any]:
        async with lifespan(scope) as state, traffic.router.lifespan_context(traffic):
            yield state

    def merged() -> dict[str, Any]:
        found, more = document(), traffic.openapi()
        found["paths"] |= more["paths"]
        feedback = found["paths"].get(FEEDBACK)
        if feedback is not None:
            feedback["post"] = _either(feedback["post"], more["paths"][LABELS]["post"])
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
    app.state.service.beside.append((TRAFFIC, service.readiness))
    app.state.ends_at_exit = [service.hub.close]
    return app


def _either(of_items: dict[str, Any], of_flows: dict[str, Any]) -> dict[str, Any]:
    """How the one route for both kinds of feedback is described."""

    def choice(where: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
        schemas = [where(each)["content"]["application/json"] for each in (of_items, of_flows)]
        either = [one for each in schemas for one in each["schema"].get("anyOf", [each["schema"]])]
        return {"content": {"application/json": {"schema": {"anyOf": either}}}}

    answered = choice(lambda each: each["responses"]["200"])
    return of_items | {
        "description": f"{of_items['description']} With a `label` it is about a flow, as "
        f"`POST {LABELS}`.",
        "requestBody": {"required": True} | choice(lambda each: each["requestBody"]),
        "responses": of_flows["responses"]
        | of_items["responses"]
        | {"200": {"description": "Taken"} | answered},
    }


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
