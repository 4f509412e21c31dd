"""Redis clients that fail fast, so that a dead server costs milliseconds and not an answer."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

# The client's defaults (ten retries, five-second time-outs) block 3.3 s per call on a dead server.
REQUEST_TIMEOUT_S = 0.25


def connect(url: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> redis.Redis:
    """A synchronous client of `url` (`redis://`, `rediss://` or `unix://`) without retries.

    A certificate must be of the host that the URL names, unless it says `ssl_check_hostname=no`.
    """
    # Not every version of the client checks it by itself.
    secure: dict[str, Any] = {"ssl_check_hostname": True} if url.startswith("rediss:") else {}
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        **secure,
    )


def describe(url: str) -> str:
    """`url` with its password masked, for logs and messages."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f":{parts.password}@", ":***@")


class ReadScript:
    """A script that only reads, on a connection of its own.

    The client's pool lends, checks and takes back a connection for every command, which costs more
    than the command where requests wait for it. Threads take turns.
    """

    def __init__(self, client: redis.Redis, text: str) -> None:
        """Connects when it is first called."""
        self._connection: Any = client.connection_pool.make_connection()
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._lock = threading.Lock()

    def __call__(self, *, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """What the script returns.

        Raises:
            redis.RedisError: the server is gone, or the script failed.
        """
        tail = (len(keys), *keys, *args)
        with self._lock:
            try:
                return self._asked(tail)
            except redis.ConnectionError:
                # The server may have closed it while nothing was asked; one that is gone refuses.
                return self._asked(tail)

    def _asked(self, tail: tuple[Any, ...]) -> Any:
        try:
            return self._ask("EVALSHA", self._sha, *tail)
        except NoScriptError:
            return self._ask("EVAL", self._text, *tail)

    def _ask(self, *command: Any) -> Any:
        self._connection.send_command(*command)
        return self._connection.read_response()
