"""A small edition with a known shape, a registry that holds it, and the service over HTTP."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import pytest
import uvicorn
from fastapi import FastAPI

from feature_store.editions import RecommenderEdition, Scoring
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.content import ContentSpec
from feature_store.interactions.history import HistoryPolicy
from feature_store.interactions.user_features import UserFeatureSpec
from feature_store.registry import Registry
from feature_store.vectors import IndexSpec, VectorIndex
from models.recommender.user_tower import UserTower
from services.recommend.app import create_app
from services.recommend.settings import Limits, ServeSettings

GENRES = ("war", "sea", "love")


def make_edition(seed: int = 0, per_genre: int = 20) -> RecommenderEdition:
    """Films and books of three genres; items of one genre lie close together."""
    rng = np.random.default_rng(seed)
    rows = [
        (f"{kind}-{genre}-{number:02}", kind, f"{genre} {kind} {number}", genre)
        for kind in ("book", "film")
        for genre in GENRES
        for number in range(per_genre)
    ]
    items = pl.DataFrame(rows, schema=["item_id", "item_type", "title", "genre"], orient="row")
    centres = np.eye(3, 8)
    vectors = centres[[GENRES.index(genre) for genre in items["genre"]]]
    vectors = vectors + 0.1 * rng.standard_normal((len(items), 8))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    items = items.with_columns(pl.concat_list("genre")).sort("item_type", "item_id")
    order = [row[0] for row in rows]
    vectors = vectors[[order.index(item_id) for item_id in items["item_id"]]]
    catalogue = Catalogue.from_items(items)
    return RecommenderEdition(
        catalogue=catalogue,
        items=items,
        item_vectors=vectors,
        history_vectors=vectors.copy(),
        history_tail=np.zeros((len(items), 0), np.float32),
        bias=np.zeros(len(items), np.float32),
        popularity=np.arange(len(items), 0, -1, dtype=np.float32),
        user_tower=UserTower(dimension=8, n_types=2, n_features=0, d_hidden=0),
        d_hidden=0,
        index=VectorIndex.build(vectors, IndexSpec(), device="cpu"),
        scoring=Scoring(temperature=0.1),
        history=HistoryPolicy(),
        content=ContentSpec.fit(items, text_dimension=256),
        user_features=UserFeatureSpec(),
    )


def publish(
    registry: Registry, directory: Path, seed: int = 0, edition: RecommenderEdition | None = None
) -> str:
    """A new version, made champion."""
    (edition or make_edition(seed)).save(directory)
    version = registry.publish(
        "recommender",
        directory,
        data_fingerprint="test",
        code_version="test",
        config={},
        metrics={"recall@20": 0.5},
    ).version
    registry.promote("recommender", version, alias="champion")
    return version


@contextmanager
def serving(
    settings: ServeSettings, build: Callable[[ServeSettings], FastAPI] = create_app
) -> Iterator[httpx.Client]:
    """The real application on a free port."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(build(settings), log_level="warning", lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    port = listener.getsockname()[1]
    transport = httpx.HTTPTransport(retries=20)
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=30, transport=transport
        ) as client:
            client.get("/healthz")  # listens: other clients need not try again
            yield client
    finally:
        server.should_exit = True
        thread.join()


Settings = Callable[..., ServeSettings]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry")


@pytest.fixture
def settings(tmp_path: Path, redis_server, redis_client) -> Settings:
    def build(**changes) -> ServeSettings:
        values = {
            "registry": str(tmp_path / "registry"),
            "redis_url": redis_server.url,
            "offline": tmp_path / "offline",
            "device": "cpu",
            "refresh_s": 0.05,
            "limits": Limits(deadline_ms=20_000),  # a busy machine is no overload
        }
        return ServeSettings(**(values | changes))

    return build


@pytest.fixture
def client(registry: Registry, settings: Settings, tmp_path: Path) -> Iterator[httpx.Client]:
    publish(registry, tmp_path / "staging")
    with serving(settings()) as client:
        yield client
