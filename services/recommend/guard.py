"""What stands before every route: counting, and limits that keep the process alive."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.problems import ProblemError
from services.recommend.direct import header
from services.recommend.telemetry import Telemetry

# These must be answered when all else is refused.
ALWAYS_OPEN = ("/healthz", "/readyz", "/metrics")


class Guard:
    """ASGI middleware: bounds bodies and the requests under way, counts and times answers."""

    def __init__(
        self, app: ASGIApp, *, telemetry: Telemetry, max_body_bytes: int, max_under_way: int
    ) -> None:
        self._app = app
        self._telemetry = telemetry
        self._max_body_bytes = max_body_bytes
        self._max_under_way = max_under_way
        self._under_way = 0
        self._series: dict[tuple[str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._under_way += 1
        try:
            problem = self._refused(scope)
            if problem is not None:
                await problem.response(scope["path"])(scope, receive, counted)
            else:
                await self._bounded(scope, receive, counted)
        finally:
            self._under_way -= 1
            # The route's template, not the path: one time series a route, not one an item.
            route = getattr(scope.get("route"), "path_format", "unknown")
            requests, latency = self._of(route, status)
            requests.inc()
            latency.observe(time.perf_counter() - started)

    def _refused(self, scope: Scope) -> ProblemError | None:
        if self._under_way > self._max_under_way and scope["path"] not in ALWAYS_OPEN:
            self._telemetry.refused.labels("connections").inc()
            return ProblemError(
                status=503,
                title="Too busy",
                detail="too many requests are under way; ask again in 1 s",
                headers={"Retry-After": "1"},
            )
        length = header(scope, b"content-length")
        if length is not None and length.isdigit() and int(length) > self._max_body_bytes:
            return self._too_large()
        return None

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application; a body whose length nobody told is first read to its end."""
        if header(scope, b"transfer-encoding") is None:
            await self._app(scope, receive, send)
            return
        read: deque[Message] = deque()
        taken, more = 0, True
        while more:
            message = await receive()
            taken += len(message.get("body", b""))
            more = message.get("more_body", False)
            read.append(message)
            if taken > self._max_body_bytes:
                await self._too_large().response(scope["path"])(scope, receive, send)
                return

        async def again() -> Message:
            return read.popleft() if read else await receive()

        await self._app(scope, again, send)

    def _too_large(self) -> ProblemError:
        return ProblemError(
            status=413,
            title="Body too large",
            detail=f"a body may hold {self._max_body_bytes} bytes",
            headers={"Connection": "close"},
        )

    def _of(self, route: str, status: int) -> tuple[Any, Any]:
        series = self._series.get((route, status))
        if series is None:
            series = (
                self._telemetry.requests.labels(route, str(status)),
                self._telemetry.latency.labels(route),
            )
            self._series[route, status] = series
        return series
