"""The door: every request shows a key that may do what it asks, or is told why not."""

from __future__ import annotations

import json
import math

from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as Request

from services.access.keys import KeyFile, Scope
from services.access.limits import RateLimits

# Probes of the orchestrator carry no key, and learn nothing but whether the process is well.
_OPEN = frozenset({"/healthz", "/readyz"})
_ASKING = frozenset({"/v1/recommendations", "/v1/classify"})
_TELLING = frozenset({"/v1/feedback", "/v1/labels"})
_SAFE = frozenset({"GET", "HEAD"})


def needed(method: str, path: str) -> Scope | None:
    """The scope that a request needs, None where anybody may ask.

    What is not known to be harmless needs `admin`: a new route is closed until it is named here.
    """
    if path in _OPEN:
        return None
    if path in _TELLING:
        return "feedback"
    if path in _ASKING:
        return "read"
    if path.startswith("/v1/"):
        return "read" if method in _SAFE else "admin"
    # Pages that are the same for everybody (documentation, the dashboard's files); their data are
    # behind /v1.
    return None if method in _SAFE and path != "/metrics" else "admin"


class Access:
    """ASGI middleware; keys are sent as `Authorization: Bearer KEY` or `X-API-Key: KEY`."""

    def __init__(self, app: ASGIApp, *, keys: KeyFile, limits: RateLimits | None = None) -> None:
        self._app = app
        self._keys = keys
        self._limits = limits or RateLimits()

    async def __call__(self, scope: Request, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        wanted = needed(scope.get("method", "GET"), scope["path"])
        if wanted is None:
            await self._app(scope, receive, send)
            return
        secret = _secret(scope)
        key = None if secret is None else self._keys.find(secret)
        if key is None:
            detail = "send a key as `Authorization: Bearer KEY`"
            if secret is not None:
                detail = "this key is unknown, revoked or expired"
            header = (b"www-authenticate", b'Bearer realm="errata"')
            await refuse(send, scope, 401, "A key is needed", detail, header)
        elif not key.allows(wanted):
            detail = f"the key '{key.name}' lacks the scope '{wanted}'"
            await refuse(send, scope, 403, "Not with this key", detail)
        elif key.requests_per_s is not None and (
            wait_s := self._limits.wait_s(key.name, requests_per_s=key.requests_per_s)
        ):
            again = math.ceil(wait_s)
            detail = f"the key '{key.name}' may ask {key.requests_per_s:g} times a second"
            header = (b"retry-after", str(again).encode())
            await refuse(send, scope, 429, "Too many requests", detail, header)
        else:
            scope.setdefault("state", {})["key_name"] = key.name
            await self._app(scope, receive, send)


def _secret(scope: Request) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-api-key":
            return str(value.decode("latin-1").strip())
        if name == b"authorization":
            kind, _, secret = value.decode("latin-1").partition(" ")
            if kind.lower() == "bearer":
                return str(secret.strip())
    return None


async def refuse(
    send: Send, scope: Request, status: int, title: str, detail: str, *headers: tuple[bytes, bytes]
) -> None:
    """An RFC 9457 problem document, without the body having been read."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": title})
        return
    problem = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": detail,
        "instance": scope["path"],
    }
    body = json.dumps(problem).encode()
    start = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        *headers,
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
