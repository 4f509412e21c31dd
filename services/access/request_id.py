"""A name for every request, in its answer and in every line that is logged for it."""

from __future__ import annotations

import json
import logging
import re
import time
from contextvars import ContextVar
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.names import unique_names

log = logging.getLogger("errata.requests")

HEADER = b"x-request-id"
_ACCEPTED = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")
_current: ContextVar[str | None] = ContextVar("request_id", default=None)


class RequestId:
    """ASGI middleware: takes the caller's `x-request-id`, or makes one; logs requests at INFO."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == HEADER), b"")
        # Anything else could forge lines of the log.
        request_id = sent if _ACCEPTED.fullmatch(sent) else unique_names(1)[0].encode()
        started, status = time.perf_counter(), 500

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (HEADER, request_id)]
            await send(message)

        token = _current.set(request_id.decode())
        try:
            await self._app(scope, receive, named)
        finally:
            if log.isEnabledFor(logging.INFO):
                log.info(
                    "%s %s %s",
                    scope["method"],
                    scope["path"],
                    status,
                    extra={
                        "status": status,
                        "seconds": round(time.perf_counter() - started, 6),
                        "key": scope.get("state", {}).get("key_name"),
                    },
                )
            _current.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, and what `extra` adds."""

    _STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": _current.get(),
        }
        line |= {k: v for k, v in vars(record).items() if k not in self._STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps({k: v for k, v in line.items() if v is not None}, default=str)
