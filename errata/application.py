"""Everything that one port answers."""

from __future__ import annotations

from fastapi import FastAPI

from feature_store.registry import Registry
from services import dashboard
from services.recommend.app import create_app
from services.recommend.settings import ServeSettings


def application(settings: ServeSettings) -> FastAPI:
    """The routes of the API, and behind them the dashboard at `/`."""
    app = create_app(settings)
    dashboard.install(app, Registry(settings.registry))
    return app
