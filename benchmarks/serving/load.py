"""A load tool in a process of its own: closed loop (as fast as answered) or open loop (a rate).

    python -m benchmarks.serving.load --port 8000 --bodies bodies.jsonl --seconds 10
        --connections 32                # closed loop: every connection asks again when answered
        --connections 64 --rate 1000    # open loop: a request every 1/rate s, whatever comes back

In the open loop a latency runs from the moment at which the request was due, so that a server that
stalls is charged for everyone who waited (no coordinated omission). The last line is one JSON
object: counts by status, latencies of what was answered 200 (`served_*`: from when it was sent),
requests a second, and per second what happened. `--port` may be a unix socket's path.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import uvloop


class Connection(asyncio.Protocol):
    """One keep-alive connection with at most one request under way."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = bytearray()
        self._need = -1
        self.due = self.sent = 0.0
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for a request."""
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes, due: float) -> None:
        """Send `request`, whose latency counts from `due`."""
        assert self.transport is not None
        self.due, self.sent = due, time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Collect one whole answer."""
        self._buffer += data
        if self._need < 0:
            head = self._buffer.find(b"\r\n\r\n")
            if head < 0:
                return
            lower = bytes(self._buffer[:head]).lower()
            at = lower.find(b"content-length:")
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self._need = head + 4 + length
        if len(self._buffer) >= self._need:
            status = int(self._buffer[9:12])
            del self._buffer[: self._need]
            self._need = -1
            self._load.answered(self, status)

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that ends with a request under way is a failed request."""
        del exc
        self._load.lost(self)


class Metronome:
    """Tells an event loop that a request is due.

    An event loop's own timers count milliseconds: it would have to spin, and take the core that the
    server under test needs.

    Attributes:
        ticks: a file descriptor that is readable when something is due.
    """

    def __init__(self, period: float, *, begin: float, end: float) -> None:
        """All in seconds of `time.perf_counter`."""
        self._period, self._end = period, end
        self._next = begin
        self.ticks = os.eventfd(0, os.EFD_NONBLOCK)

    def run(self) -> None:
        """Tick until the end; for a thread of its own."""
        while (now := time.perf_counter()) < self._end:
            late = self._next <= now
            time.sleep(self._period if late else self._next - now)
            os.eventfd_write(self.ticks, 1)

    def due(self) -> Iterator[float]:
        """The moments that have come since the last call."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.ticks)
        now = min(time.perf_counter(), self._end)
        while self._next < now:
            yield self._next
            self._next += self._period

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.ticks)


class Load:
    """Sends and counts."""

    def __init__(self, arguments: argparse.Namespace, requests: list[bytes]) -> None:
        self._arguments = arguments
        self._requests = requests
        self._next = 0
        self._busy: set[Connection] = set()
        self._free: deque[Connection] = deque()
        self._waiting: deque[float] = deque()
        self._stop = False
        # (answered at, latency from when it was due, from when it was sent, status), in seconds
        self.samples: list[tuple[float, float, float, int]] = []
        self.started = 0.0

    async def run(self) -> dict[str, Any]:
        """Connect, load for the asked time, wait for what is under way."""
        loop = asyncio.get_running_loop()
        arguments = self._arguments
        for _ in range(arguments.connections):
            await self._connect(loop)
        self.started = time.perf_counter()
        end = self.started + arguments.seconds
        if arguments.rate:
            await self._open_loop(end)
        else:
            for connection in list(self._free):
                self._free.remove(connection)
                self._send(connection, time.perf_counter())
            await asyncio.sleep(arguments.seconds)
        self._stop = True
        offered = len(self.samples) + len(self._busy) + len(self._waiting)
        seconds = time.perf_counter() - self.started
        drained = time.perf_counter() + arguments.drain_s
        while self._busy and time.perf_counter() < drained:
            await asyncio.sleep(0.01)
        return self._summary(seconds, offered)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        port = self._arguments.port
        if port.isdigit():
            _, connection = await loop.create_connection(
                lambda: Connection(self), "127.0.0.1", int(port)
            )
        else:
            _, connection = await loop.create_unix_connection(lambda: Connection(self), port)
        self._free.append(connection)

    async def _open_loop(self, end: float) -> None:
        loop = asyncio.get_running_loop()
        metronome = Metronome(1.0 / self._arguments.rate, begin=self.started, end=end)

        def send_due() -> None:
            for due in metronome.due():
                if self._free:
                    self._send(self._free.popleft(), due)
                else:
                    self._waiting.append(due)

        loop.add_reader(metronome.ticks, send_due)
        await asyncio.to_thread(metronome.run)
        loop.remove_reader(metronome.ticks)
        send_due()
        metronome.close()

    def _send(self, connection: Connection, due: float) -> None:
        self._busy.add(connection)
        request = self._requests[self._next % len(self._requests)]
        self._next += 1
        connection.ask(request, due)

    def answered(self, connection: Connection, status: int) -> None:
        """Count an answer, and send the next request on the connection."""
        now = time.perf_counter()
        self._note(connection, now, status)
        self._busy.discard(connection)
        if self._stop:
            self._free.append(connection)
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        elif self._arguments.rate:
            self._free.append(connection)
        else:
            self._send(connection, now)

    def _note(self, connection: Connection, now: float, status: int) -> None:
        sample = (now - self.started, now - connection.due, now - connection.sent, status)
        self.samples.append(sample)

    def lost(self, connection: Connection) -> None:
        """Count a connection that the server ended with a request under way as status 0."""
        if connection in self._busy:
            now = time.perf_counter()
            self._note(connection, now, 0)
            self._busy.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if not self._stop:
            task = asyncio.get_running_loop().create_task(self._reconnect())
            task.add_done_callback(lambda _: None)

    async def _reconnect(self) -> None:
        try:
            await self._connect(asyncio.get_running_loop())
        except OSError:
            await asyncio.sleep(0.05)
            if not self._stop:
                await self._reconnect()
            return
        if not self._arguments.rate and not self._stop:
            self._send(self._free.pop(), time.perf_counter())

    def _summary(self, seconds: float, offered: int) -> dict[str, Any]:
        at, latency, service, status = (np.array(each) for each in zip(*self.samples, strict=True))
        good = latency[status == 200] * 1e3
        served = service[status == 200] * 1e3
        counts = Counter(status.astype(int).tolist())
        counts[-1] = len(self._busy)
        seconds_of = at.astype(int)
        timeline = []
        for second in range(int(seconds) + 1):
            here = seconds_of == second
            fine = latency[here & (status == 200)] * 1e3
            timeline.append(
                {
                    "second": second,
                    "ok": len(fine),
                    "other": int(here.sum()) - len(fine),
                    "p99_ms": _percentile(fine, 99),
                }
            )
        return {
            "rps": len(good) / seconds,
            "offered_rps": offered / seconds,
            "p50_ms": _percentile(good, 50),
            "p90_ms": _percentile(good, 90),
            "p99_ms": _percentile(good, 99),
            "served_p50_ms": _percentile(served, 50),
            "served_p99_ms": _percentile(served, 99),
            "max_ms": float(good.max()) if len(good) else None,
            "statuses": {str(code): count for code, count in counts.items() if count},
            "failed": int(len(latency) - len(good) + counts[-1]),
            "timeline": timeline,
        }


def _percentile(values: Any, q: float) -> float | None:
    return float(np.percentile(values, q)) if len(values) else None


def http_requests(path: str, bodies: list[bytes]) -> list[bytes]:
    """The bytes of one POST a body."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in bodies]


def main() -> None:
    """Run the load that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", required=True)
    parser.add_argument("--path", default="/v1/recommendations")
    parser.add_argument("--bodies", type=Path, required=True, help="a JSON body a line")
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--rate", type=float, default=0.0, help="requests a second; 0: closed loop")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--drain-s", type=float, default=5.0)
    arguments = parser.parse_args()
    requests = http_requests(arguments.path, arguments.bodies.read_bytes().splitlines())
    # The load should cost as little as it can.
    summary = uvloop.run(Load(arguments, requests).run())
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main()
