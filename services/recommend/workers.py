"""One process that answers, or several that share a port and the pages of the index."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TYPE_CHECKING

from services.recommend.settings import ServeSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

Build = Callable[[ServeSettings], "FastAPI"]
Prepare = Callable[[], None]
# A worker that dies again and again is started with this much pause.
RESTART_PAUSE_S = 1.0
_POLL_S = 0.1
# How long a thread may keep the interpreter while others want it. A request passes through several
# hands: at Python's 5 ms each of them waits that long while a new version is being loaded.
SWITCH_INTERVAL_S = 0.0005
# Longer than load balancers keep an idle connection (60 s is common): one that is closed here just
# as a request comes on it loses the request.
KEEP_ALIVE_S = 75


def serve(
    settings: ServeSettings,
    *,
    build: Build,
    host: str,
    port: int,
    workers: int = 1,
    prepare: Prepare | None = None,
    bound: Callable[[], None] = lambda: None,
) -> None:
    """Serve what `build`, a function of a module, makes of the settings in every worker.

    `prepare`, a function of a module, is called first in every process but this one: a new process
    knows nothing of how this one logs. `bound` is called once the ports are this service's.

    SIGTERM or SIGINT ends it; what was taken is finished. What the application has in
    `app.state.ends_at_exit` is called at the signal: for streams that never end by themselves.

    What needs an admin's key is answered on `settings.admin_port` alone, where one is set.

    With several workers each accepts on a socket of its own of the same port (SO_REUSEPORT), and a
    worker that dies is started again. The edition's vectors and index are mapped: the workers read
    the same pages. Their metrics are added up by whichever is asked.

    Raises:
        OSError: an address is taken.
    """
    ports = (port,) if settings.admin_port is None else (port, settings.admin_port)
    if workers == 1:
        listeners = [_listen(host, each, shared=False) for each in ports]
        bound()
        _serve_one(settings, build, listeners)
        return
    with tempfile.TemporaryDirectory(prefix="errata-metrics-") as metrics:
        # Read by prometheus_client when a worker imports it.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = metrics
        try:
            _supervise(settings, build, host, ports, workers, prepare or _log_plainly, bound)
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


def _supervise(
    settings: ServeSettings,
    build: Build,
    host: str,
    ports: Sequence[int],
    workers: int,
    prepare: Prepare,
    bound: Callable[[], None],
) -> None:
    # Keeps the ports while no worker listens.
    reserved = [_bind(host, port, shared=True) for port in ports]
    bound()
    ports = [each.getsockname()[1] for each in reserved]
    # A request is small: a pool of threads per operation costs more than it brings.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}

    def start() -> BaseProcess:
        work = (settings, build, host, ports, prepare)
        process = context.Process(target=_work, args=work, daemon=True)
        process.start()
        return process

    running = [start() for _ in range(workers)]
    try:
        while not stopping:
            time.sleep(_POLL_S)
            for place, process in enumerate(running):
                if not process.is_alive() and not stopping:
                    log.error(
                        "worker %s ended with %s; another starts", process.pid, process.exitcode
                    )
                    _forget_gauges(process)
                    time.sleep(RESTART_PAUSE_S)
                    running[place] = start()
    finally:
        for process in running:
            process.terminate()
        deadline = time.monotonic() + settings.limits.drain_s + 5
        for process in running:
            process.join(max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                log.error("worker %s did not finish in time and was killed", process.pid)
                process.kill()
                process.join()
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in reserved:
            each.close()


def _work(
    settings: ServeSettings, build: Build, host: str, ports: Sequence[int], prepare: Prepare
) -> None:
    """A worker's whole life."""
    _die_with_parent()
    prepare()
    _serve_one(settings, build, [_listen(host, port, shared=True) for port in ports])


def _log_plainly() -> None:
    logging.basicConfig(
        level=logging.WARNING, format=f"%(asctime)s %(levelname)s [{os.getpid()}] %(message)s"
    )


def _serve_one(settings: ServeSettings, build: Build, listeners: list[socket.socket]) -> None:
    import uvicorn

    from services.recommend.one_write import OneWrite

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    app = build(settings)

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            for end in getattr(app.state, "ends_at_exit", ()):
                end()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app,
        http=OneWrite,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_S,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.limits.drain_s),
    )
    Server(config).run(sockets=listeners)


def _listen(host: str, port: int, *, shared: bool) -> socket.socket:
    listener = _bind(host, port, shared=shared)
    listener.listen(2_048)
    listener.setblocking(False)
    return listener


def _bind(host: str, port: int, *, shared: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        hint = "; name another one with --port" if error.errno == errno.EADDRINUSE else ""
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}{hint}") from error
    return listener


def _die_with_parent() -> None:
    """A supervisor that was killed must not leave workers behind."""
    parent = os.getppid()
    try:
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    except (OSError, AttributeError):
        return  # not Linux
    if os.getppid() != parent:
        raise SystemExit("the supervisor is gone")


def _forget_gauges(process: BaseProcess) -> None:
    from prometheus_client import multiprocess

    if process.pid is not None:
        multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
