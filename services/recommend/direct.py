"""A route without the framework's cost a request, described to it like any other.

FastAPI spends as long on a request as the search does: dependencies, thread pools, two passes of
validation over the answer. This route reads the body, validates it once, awaits bytes and sends
them; what it documents is the signature of the endpoint that it was declared with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.types import ASGIApp, Receive, Scope, Send

from services import problems
from services.problems import ProblemError

log = logging.getLogger(__name__)

_JSON = (b"content-type", b"application/json")
Answer = Callable[[Scope, Any], Any]
Timed = Callable[[str], AbstractContextManager[object]]


class ClientGoneError(Exception):
    """The client closed the connection before its request was whole."""


def direct(model: type[BaseModel], answer: Answer, *, timed: Timed) -> type[APIRoute]:
    """A route class whose requests go to `answer(scope, request)`, which returns an awaitable of
    the answer's JSON or raises a `ProblemError`; `timed("parse")` is around the parsing."""

    class Direct(APIRoute):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.app = self._answer

        async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
            try:
                raw = await _body(receive)
                with timed("parse"):
                    request = _validated(model, raw)
                body = await answer(scope, request)
            except ProblemError as problem:
                await problem.response(scope["path"])(scope, receive, send)
                return
            except ClientGoneError:
                return
            except Exception:  # no framework stands before it to say so
                log.exception("%s failed", scope["path"])
                await problems.unexpected().response(scope["path"])(scope, receive, send)
                return
            headers = [_JSON, (b"content-length", str(len(body)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

    return Direct


class Shortcut:
    """ASGI middleware: a POST to one route goes to it without a search through all of them."""

    def __init__(self, app: ASGIApp, *, route: APIRoute) -> None:
        self._app, self._route = app, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        here = scope["type"] == "http" and scope["path"] == self._route.path
        if here and scope["method"] == "POST":
            scope["route"] = self._route
            await self._route.app(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def header(scope: Scope, name: bytes) -> str | None:
    """The first header of that name, which is in lower case."""
    for key, value in scope["headers"]:
        if key == name:
            text: str = value.decode("latin-1")
            return text
    return None


async def _body(receive: Receive) -> bytes:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        return body
    parts = [body]
    while message.get("more_body", False):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        parts.append(message.get("body", b""))
    return b"".join(parts)


def _validated(model: type[BaseModel], raw: bytes) -> BaseModel:
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        raise problems.invalid(found, within=("body",)) from error
