"""FastAPI, and what stands before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send


class Application(FastAPI):
    """An application whose every request passes what was put `before` it.

    The framework's own middlewares stand behind its stack for errors, body limits and telemetry,
    six calls a request; what a middleware here answers by itself costs none of them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._first: ASGIApp = super().__call__

    def before(self, middleware: Callable[..., ASGIApp], **options: Any) -> None:
        """Put `middleware(app, **options)` before all that stands here: the last comes first."""
        self._first = middleware(self._first, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        await self._first(scope, receive, send)
