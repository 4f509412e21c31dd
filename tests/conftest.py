"""Fixtures that several rooms share: a real Redis server, and the data sets where they are."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from feature_store.online import EmbeddedRedis, connect


@pytest.fixture(scope="session")
def redis_server() -> Iterator[EmbeddedRedis]:
    # A short path of its own: a unix socket's path holds at most 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="errata-") as directory,
        EmbeddedRedis(Path(directory)) as server,
    ):
        yield server


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis) -> Iterator[redis.Redis]:
    client = connect(redis_server.url, timeout_s=5)
    client.flushall()
    yield client
    client.close()


@pytest.fixture(scope="session")
def data_sets() -> Path:
    root = os.environ.get("ERRATA_DATA")
    if not root:
        pytest.skip("ERRATA_DATA does not name a directory of data sets")
    return Path(root)
