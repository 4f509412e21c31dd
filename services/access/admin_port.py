"""A port of its own for what operates the service: who reaches the other cannot even ask."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from services.access.middleware import needed, refuse


class AdminPort:
    """ASGI middleware: what needs the scope `admin` is answered on one port only.

    That port answers everything, so that the dashboard there can promote and forget. Which port a
    request came to is what the server's socket says, never a header.
    """

    def __init__(self, app: ASGIApp, *, port: int) -> None:
        self._app = app
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if (
            scope["type"] in ("http", "websocket")
            and (scope.get("server") or (None, None))[1] != self._port
            and needed(scope.get("method", "GET"), scope["path"]) == "admin"
        ):
            detail = "what operates the service is answered on its admin port"
            await refuse(send, scope, 404, "Not on this port", detail)
            return
        await self._app(scope, receive, send)
