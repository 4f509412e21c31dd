"""A service that reads outcomes from a stream, whatever keeps the stream."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import redis

from errata.application import application
from feature_store.error_memory.log import MemoryLog
from feature_store.online import EmbeddedRedis
from feature_store.registry import Registry
from services.recommend.settings import Limits, ServeSettings
from tests.services.recommend.conftest import publish, serving


@contextmanager
def reading(
    stream: str, home: Path, server: EmbeddedRedis, client: redis.Redis
) -> Iterator[tuple[httpx.Client, MemoryLog]]:
    """A client of the service, and the log of what its error memory learns."""
    version = publish(Registry(home / "registry"), home / "staging")
    settings = ServeSettings(
        registry=str(home / "registry"),
        redis_url=server.url,
        offline=home / "offline",
        device="cpu",
        refresh_s=0.05,
        limits=Limits(deadline_ms=20_000),
    )
    with serving(settings, functools.partial(application, labels_stream=stream)) as asking:
        yield asking, MemoryLog(client, model="recommender", version=version)
