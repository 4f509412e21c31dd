"""The page and its files."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

from feature_store.error_memory.usage import Usage
from feature_store.registry import Registry
from services.dashboard import admin, memories, versions

STATIC = Path(__file__).parent / "static"
_HEADERS = {
    # A new release must be seen at once; an unchanged file is answered with 304.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def install(app: FastAPI, registry: Registry, remembered: memories.Memories, usage: Usage) -> None:
    """Serve the dashboard at `/`, behind the routes that `app` has by now.

    Args:
        app: the application.
        registry: whose versions are shown and moved.
        remembered: gives the memories of the versions that serve.
        usage: how often all replicas asked them.
    """
    versions.add_routes(app, registry)
    memories.add_routes(app, registry, remembered, usage)
    app.include_router(admin.router(registry, remembered))
    app.mount("/", _Page(directory=STATIC, html=True), name="dashboard")


class _Page(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        """See `StaticFiles`."""
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response
