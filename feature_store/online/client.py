"""Redis clients that fail fast, so that a dead server costs milliseconds and not an answer."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
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


class Reader:
    """Values and a script that only reads, on a connection of their own.

    The client's pool lends, checks and takes back a connection for every command, which costs more
    than the command where requests wait for it. Threads take turns.
    """

    def __init__(self, client: redis.Redis, script: str) -> None:
        """Connects when it is first called."""
        self._connection: Any = client.connection_pool.make_connection()
        self._script = script
        self._sha = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        self._lock = threading.Lock()

    def script(self, *, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """What the script returns.

        Raises:
            redis.RedisError: the server is gone, or the script failed.
        """
        return self._read([], keys, args)[1]

    def values(
        self,
        names: Sequence[str],
        *,
        keys: Sequence[str] = (),
        args: Sequence[Any] = (),
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[list[bytes | None], Any]:
        """The strings at `names`, which are some, and of the script over `keys`, where there are
        any, what it returns: in one round trip. `meanwhile` is called once, while that is under
        way; it must not read with this reader.

        Raises:
            redis.RedisError: the server is gone, or the script failed.
        """
        return self._read(names, keys, args, meanwhile)

    def _read(
        self,
        names: Sequence[str],
        keys: Sequence[str],
        args: Sequence[Any],
        meanwhile: Callable[[], None] | None = None,
    ) -> tuple[list[bytes | None], Any]:
        left = [] if meanwhile is None else [meanwhile]
        with self._lock:
            try:
                return self._asked(names, keys, args, left)
            except redis.ConnectionError:
                # The server may have closed it while nothing was asked; one that is gone refuses.
                return self._asked(names, keys, args, left)

    def _asked(
        self,
        names: Sequence[str],
        keys: Sequence[str],
        args: Sequence[Any],
        meanwhile: list[Callable[[], None]],
    ) -> tuple[list[bytes | None], Any]:
        commands: list[tuple[Any, ...]] = []
        if names:
            commands.append(("MGET", *names))
        tail = (len(keys), *keys, *args)
        if keys:
            commands.append(("EVALSHA", self._sha, *tail))
        self._connection.send_packed_command(self._connection.pack_commands(commands))
        try:
            while meanwhile:
                meanwhile.pop()()
            values = self._connection.read_response() if names else []
        except Exception:
            self._connection.disconnect()  # what was not read must not be the next one's answer
            raise
        if not keys:
            return values, None
        try:
            return values, self._connection.read_response()
        except NoScriptError:
            self._connection.send_command("EVAL", self._script, *tail)
            return values, self._connection.read_response()
