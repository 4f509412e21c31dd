"""Answers leave in one write, whole, and in their order."""

import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from services.recommend.one_write import OneWrite
from tests.patience import within

eventually = within(20)
PIECE = b"x" * 10_000


def application() -> FastAPI:
    app = FastAPI()

    @app.get("/bytes/{n}")
    async def some(n: int) -> Response:
        return Response(b"y" * n)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def pieces():
            for _ in range(100):
                yield PIECE

        return StreamingResponse(pieces())

    return app


@pytest.fixture(scope="module")
def address():
    with listening() as listener, running(listener):
        yield listener.getsockname()


@contextmanager
def listening():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


@contextmanager
def running(listener):
    config = uvicorn.Config(application(), http=OneWrite, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    eventually(lambda: server.started)
    yield
    server.should_exit = True
    thread.join()


def asked(address, *paths: str, method: str = "GET", close: bool = True) -> bytes:
    """All bytes of the answers to requests that are sent at once on one connection."""
    with socket.create_connection(address, timeout=20) as client:
        for number, path in enumerate(paths):
            last = close and number == len(paths) - 1
            keep = "close" if last else "keep-alive"
            head = f"{method} {path} HTTP/1.1\r\nHost: here\r\nConnection: {keep}\r\n\r\n"
            client.sendall(head.encode())
        found = b""
        while part := client.recv(1 << 20):
            found += part
        return found


def test_head_and_body_come_together(address):
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(b"GET /bytes/13000 HTTP/1.1\r\nHost: here\r\n\r\n")
        first = client.recv(1 << 20)
    assert first.startswith(b"HTTP/1.1 200")
    assert first.endswith(b"y" * 13_000)


def test_requests_that_were_sent_at_once_are_answered_in_their_order(address):
    found = asked(address, "/bytes/3", "/bytes/5", "/bytes/1")
    bodies = [part.partition(b"\r\n\r\n")[2] for part in found.split(b"HTTP/1.1 200 OK")[1:]]
    assert bodies == [b"yyy", b"yyyyy", b"y"]


def test_more_than_is_held_comes_whole(address):
    assert asked(address, "/bytes/1000000").endswith(b"\r\n\r\n" + b"y" * 1_000_000)
    assert asked(address, "/stream").count(b"x") == 100 * len(PIECE)
