"""Everything that one port answers."""

from __future__ import annotations

from fastapi import FastAPI

from errata.serving import with_traffic
from feature_store.registry import Registry
from services import dashboard
from services.classify.app import create_app as create_traffic
from services.classify.settings import ClassifySettings
from services.recommend.app import create_app
from services.recommend.settings import ServeSettings


def application(settings: ServeSettings, traffic: ClassifySettings | None = None) -> FastAPI:
    """The routes of the API, and behind them the dashboard at `/`."""
    app = create_app(settings)
    if traffic is not None:
        with_traffic(app, create_traffic(traffic))
    dashboard.install(app, Registry(settings.registry))
    return app
