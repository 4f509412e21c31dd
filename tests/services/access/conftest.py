"""A service that asks for keys, over HTTP."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from services.access import issue, write_keys
from services.recommend.app import create_app
from services.recommend.settings import ServeSettings


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def keys(keys_file: Path) -> dict[str, str]:
    """What each holder sends."""
    made = {
        name: issue(name, [name]) if name != "slow" else issue(name, ["read"], requests_per_s=0.5)
        for name in ("read", "feedback", "admin", "slow")
    }
    write_keys(keys_file, [key for _, key in made.values()])
    return {name: secret for name, (secret, _) in made.items()}


@pytest.fixture
def client(tmp_path: Path, redis_server, redis_client, keys_file, keys) -> Iterator[httpx.Client]:
    settings = ServeSettings(
        registry=str(tmp_path / "registry"),
        redis_url=redis_server.url,
        offline=tmp_path / "offline",
        api_keys=keys_file,
    )
    with _serving(settings) as client:
        yield client


@contextmanager
def _serving(settings: ServeSettings) -> Iterator[httpx.Client]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(settings), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    transport = httpx.HTTPTransport(retries=20)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=base, timeout=30, transport=transport) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
