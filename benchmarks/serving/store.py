"""A Redis that a benchmark starts, kills and starts again; and waiting with a deadline."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis

from feature_store.online.embedded import find_server

RECOVERY_S = 30.0
_TIMEOUT_S = 5.0


class RedisServer:
    """A server with an append-only file, which can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.socket = directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        self.socket.unlink(missing_ok=True)
        files = ["--dir", str(self._directory), "--appendonly", "yes", "--save", ""]
        listen = ["--port", "0", "--unixsocket", str(self.socket)]
        log = ["--logfile", str(self._directory / "redis.log")]
        self._process = subprocess.Popen([str(find_server()), *files, *listen, *log])
        until(self._answers, what="Redis")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """The end without a word."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def client(self) -> redis.Redis:
        """A client of it."""
        return redis.Redis(unix_socket_path=str(self.socket), socket_timeout=_TIMEOUT_S)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


def until(condition: Callable[[], bool], *, what: str, seconds: float = RECOVERY_S) -> None:
    """Wait for `condition`.

    Raises:
        RuntimeError: it did not come in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} did not come within {seconds:.0f} s")
        time.sleep(0.02)


def free_port() -> int:
    """A TCP port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
