"""Small real applications on loopback, each a server and a client that talk in their own way."""

from __future__ import annotations

import asyncio
import random
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

HOST = "127.0.0.1"
Session = Callable[[int, random.Random], Awaitable[None]]


@dataclass(frozen=True)
class Application:
    """A running server and what one client of it does.

    Attributes:
        name: the class that its flows have.
        port: where the server listens.
        transport: `tcp` or `udp`.
        session: one conversation of a client with a port, drawn from a generator.
    """

    name: str
    port: int
    transport: str
    session: Session


@asynccontextmanager
async def running_applications(directory: Path) -> AsyncIterator[list[Application]]:
    """All applications, up for the length of the block; `directory` holds the certificate."""
    found: list[Application] = []
    servers: list[asyncio.Server] = []
    transports: list[asyncio.DatagramTransport] = []
    tcp: list[tuple[str, Session]] = [("web", _web), ("download", _download), ("chat", _chat)]
    for name, session in tcp:
        server = await asyncio.start_server(_answer, HOST, 0)
        servers.append(server)
        found.append(Application(name, _port(server), "tcp", session))
    certificate = self_signed(directory)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server = await asyncio.start_server(_answer, HOST, 0, ssl=context)
        servers.append(server)
        found.append(Application("tls", _port(server), "tcp", _tls))
    loop = asyncio.get_running_loop()
    udp: list[tuple[str, Session]] = [("lookup", _lookup), ("video", _video), ("voice", _voice)]
    for name, session in udp:
        transport, _ = await loop.create_datagram_endpoint(_Answering, local_addr=(HOST, 0))
        transports.append(transport)
        port = int(transport.get_extra_info("sockname")[1])
        found.append(Application(name, port, "udp", session))
    try:
        yield found
    finally:
        for server in servers:
            server.close()
        for transport in transports:
            transport.close()


async def talk(
    applications: list[Application], ports: dict[str, int], *, seconds: float, seed: int
) -> int:
    """Let clients talk with all applications at once for a while; the number of conversations.

    Args:
        ports: where the clients of each application connect to.
    """
    deadline = asyncio.get_running_loop().time() + seconds
    done = 0

    async def clients(application: Application, rng: random.Random) -> None:
        nonlocal done
        while asyncio.get_running_loop().time() < deadline:
            await application.session(ports[application.name], rng)
            done += 1
            await asyncio.sleep(rng.uniform(0.02, 0.2))

    await asyncio.gather(
        *(
            clients(each, random.Random(f"{seed} {each.name} {client}"))  # nosec B311
            for each in applications
            for client in range(2)
        )
    )
    return done


# What a server is asked for: how many answers, of how many bytes, how many seconds apart.
async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            size = int(line.split()[0])
            await reader.readexactly(int(line.split()[1]))
            writer.write(bytes(size))
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


class _Answering(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The event loop's datagram transports are none by inheritance.
        self._transport = cast(asyncio.DatagramTransport, transport)
        self._tasks: set[asyncio.Task[None]] = set()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        count, size, gap_ms = (int(each) for each in data.split(b" ", 3)[:3])
        task = asyncio.get_running_loop().create_task(self._send(addr, count, size, gap_ms / 1e3))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, addr: tuple[str, int], count: int, size: int, gap_s: float) -> None:
        for _ in range(count):
            if self._transport.is_closing():
                return
            self._transport.sendto(bytes(size), addr)
            await asyncio.sleep(gap_s)


class _Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        del addr
        self.received.put_nowait(data)


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, request: int, answer: int
) -> None:
    writer.write(b"%d %d\n" % (answer, request) + bytes(request))
    await writer.drain()
    await reader.readexactly(answer)


@asynccontextmanager
async def _connected(
    port: int, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(HOST, port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


async def _web(port: int, rng: random.Random) -> None:
    """A page, then what belongs to it."""
    async with _connected(port) as (reader, writer):
        await _ask(reader, writer, request=rng.randint(300, 500), answer=rng.randint(5, 40) * 1000)
        for _ in range(rng.randint(2, 6)):
            await asyncio.sleep(rng.uniform(0.005, 0.05))
            request, answer = rng.randint(250, 450), rng.randint(1_000, 15_000)
            await _ask(reader, writer, request=request, answer=answer)


async def _download(port: int, rng: random.Random) -> None:
    """One request, and megabytes."""
    async with _connected(port) as (reader, writer):
        await _ask(reader, writer, request=rng.randint(80, 200), answer=rng.randint(1, 3) << 20)
    await asyncio.sleep(0.2)


async def _chat(port: int, rng: random.Random) -> None:
    """Short messages to and fro, at a person's pace (hastened)."""
    async with _connected(port) as (reader, writer):
        for _ in range(rng.randint(6, 14)):
            await _ask(reader, writer, request=rng.randint(10, 200), answer=rng.randint(10, 200))
            await asyncio.sleep(rng.expovariate(15))


async def _tls(port: int, rng: random.Random) -> None:
    """A handshake, then requests that nobody can read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it signed itself
    async with _connected(port, context) as (reader, writer):
        for _ in range(rng.randint(1, 4)):
            request, answer = rng.randint(100, 500), rng.randint(1_000, 20_000)
            await _ask(reader, writer, request=request, answer=answer)
            await asyncio.sleep(rng.uniform(0.005, 0.08))


async def _lookup(port: int, rng: random.Random) -> None:
    """A question and its answer, each time from another port, as a resolver's client does."""
    await _datagrams(port, rng, count=1, size=rng.randint(60, 300), gap_ms=0, padding=(25, 50))


async def _video(port: int, rng: random.Random) -> None:
    """Frames, one way."""
    size, count = rng.randint(1_050, 1_250), rng.randint(30, 60)
    await _datagrams(port, rng, count=count, size=size, gap_ms=rng.randint(5, 12), padding=(40, 80))


async def _voice(port: int, rng: random.Random) -> None:
    """Small packets both ways, fifty a second."""
    protocol = await _open(port)
    try:
        size = rng.choice([80, 160, 200])
        for _ in range(rng.randint(15, 30)):
            protocol[0].sendto(b"1 %d 0 " % size + bytes(size - 8))
            await _next(protocol[1])
            await asyncio.sleep(0.02)
    finally:
        protocol[0].close()


async def _datagrams(
    port: int, rng: random.Random, *, count: int, size: int, gap_ms: int, padding: tuple[int, int]
) -> None:
    transport, client = await _open(port)
    try:
        transport.sendto(b"%d %d %d " % (count, size, gap_ms) + bytes(rng.randint(*padding)))
        for _ in range(count):
            if not await _next(client):
                break
    finally:
        transport.close()


async def _open(port: int) -> tuple[asyncio.DatagramTransport, _Client]:
    loop = asyncio.get_running_loop()
    return await loop.create_datagram_endpoint(_Client, remote_addr=(HOST, port))


async def _next(client: _Client) -> bool:
    """Wait for one datagram; False when it was lost."""
    try:
        await asyncio.wait_for(client.received.get(), 1.0)
    except TimeoutError:
        return False
    return True


def _port(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def self_signed(directory: Path) -> Path | None:
    """A key and a certificate for it in one PEM file; None where there is no `openssl`."""
    path = directory / "self-signed.pem"
    if not path.exists():
        openssl = shutil.which("openssl")
        if openssl is None:
            return None
        directory.mkdir(parents=True, exist_ok=True)
        key, certificate = directory / "key.pem", directory / "certificate.pem"
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
             "-nodes", "-days", "30", "-subj", "/CN=localhost", "-keyout", key, "-out",
             certificate],
            check=True, capture_output=True,
        )  # fmt: skip
        path.write_text(key.read_text() + certificate.read_text())
        key.unlink()
        certificate.unlink()
    return path
