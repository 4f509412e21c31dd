"""Servers and load tools as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx

START_TIMEOUT_S = 180.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Server:
    """A server process and its children."""

    def __init__(self, name: str, port: int, process: subprocess.Popen[bytes]) -> None:
        self.name, self.port, self.process = name, port, process

    def cpu_s(self) -> float:
        """Processor seconds of the process and its children so far, Redis left out."""
        return sum(_cpu_s(pid) for pid in self.pids())

    def resident_mb(self) -> float:
        """Resident memory of the process and its children, Redis left out."""
        return sum(_memory_mb(pid, "VmRSS") for pid in self.pids())

    def anonymous_mb(self) -> float:
        """What of it is no page of a file: what the processes asked for themselves."""
        return sum(_memory_mb(pid, "RssAnon") for pid in self.pids())

    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def load(self, bodies: Path, **options: float) -> dict[str, Any]:
        """Run the load tool and give what it found; `cpu_ms` is the server's per answer."""
        before = self.cpu_s()
        found = finish(start_load(self.port, bodies, **options))
        answered = found["statuses"].get("200", 0)
        found["cpu_ms"] = 1e3 * (self.cpu_s() - before) / max(answered, 1)
        return found

    def pids(self) -> list[int]:
        """The process and its children, Redis left out."""
        found, waiting = [], [self.process.pid]
        while waiting:
            pid = waiting.pop()
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            except OSError:
                continue
            if b"valkey" in command or b"redis-server" in command:
                continue
            found.append(pid)
            waiting += map(int, children)
        return found


@contextmanager
def server(
    name: str, module: list[str], *, port: int, probe: str | None, env: Mapping[str, str]
) -> Iterator[Server]:
    """`python -m MODULE` until the end of the block, once it answers.

    Args:
        name: for messages.
        module: the module and its arguments.
        port: where it listens.
        probe: path that answers 200 when it is ready; None asks for a recommendation.
        env: added to the environment.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        env=os.environ | env,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait(name, process, port, probe)
        yield Server(name, port, process)
    finally:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):  # LitServe leaves its workers behind
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start_load(port: int, bodies: Path, **options: float) -> subprocess.Popen[bytes]:
    """The load tool, started."""
    arguments = [
        part
        for name, value in options.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "benchmarks.serving.load"),
            *("--port", str(port), "--bodies", str(bodies), *arguments),
        ],
        stdout=subprocess.PIPE,
    )


def finish(load: subprocess.Popen[bytes]) -> dict[str, Any]:
    """What a load tool found."""
    out, _ = load.communicate()
    if load.returncode:
        raise RuntimeError(f"the load tool ended with {load.returncode}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def _wait(name: str, process: subprocess.Popen[bytes], port: int, probe: str | None) -> None:
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{name} ended with {process.returncode} before it answered")
        try:
            if probe is None:
                body = {"user_id": "u0", "k": 10}
                answer = httpx.post(f"{url}/v1/recommendations", json=body, timeout=30)
            else:
                answer = httpx.get(f"{url}{probe}", timeout=5)
            if answer.status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"{name} did not answer within {START_TIMEOUT_S:.0f} s")


def _cpu_s(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _memory_mb(pid: int, name: str) -> float:
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0
