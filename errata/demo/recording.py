"""Packets of the demo's applications: from the loopback interface, or from proxies before them."""

from __future__ import annotations

import asyncio
import queue
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import numpy as np

from errata.demo.applications import HOST, Application
from feature_store.traffic.capture import PacketBatch
from feature_store.traffic.packets.decoder import PacketDecoder
from feature_store.traffic.packets.outcome import Outcome
from feature_store.traffic.report import PROTOCOL_NAMES

PCAP_NANOSECONDS = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)
SEGMENT_BYTES = 1448
SYN, ACK, FIN, PUSH = 2, 16, 1, 8
# Where a server listens: transport (`tcp` or `udp`) and port. Of the loopback interface others see
# the same port of the other transport.
Server = tuple[str, int]


class Recording:
    """A folder with a capture for each class: a packet's class is its server's."""

    def __init__(self, directory: Path, name: str, classes: dict[Server, str]) -> None:
        """Captures are `directory/CLASS/name.pcap`; they appear when the recording is closed."""
        self._classes = classes
        self._decoder = PacketDecoder()
        self._paths = {each: directory / each / f"{name}.pcap" for each in classes.values()}
        self._records: dict[str, list[bytes]] = {each: [] for each in classes.values()}

    def add(self, batch: PacketBatch) -> None:
        """Keep the packets that belong to a class."""
        packets = self._decoder.decode(batch)
        for i in np.flatnonzero(packets["outcome"] == Outcome.FLOW).tolist():
            packet = packets[i]
            transport = PROTOCOL_NAMES.get(int(packet["protocol"]), "")
            there, back = ((transport, int(packet[end])) for end in ("dst_port", "src_port"))
            found = self._classes.get(there) or self._classes.get(back)
            if found is not None:
                raw = batch.packet(i)
                when = divmod(int(batch.timestamp_ns[i]), 1_000_000_000)
                head = struct.pack("<4I", *when, len(raw), int(batch.length[i]))
                self._records[found].append(head + raw)

    def close(self) -> None:
        """Write the captures."""
        for name, records in self._records.items():
            self._paths[name].parent.mkdir(parents=True, exist_ok=True)
            self._paths[name].write_bytes(PCAP_NANOSECONDS + b"".join(records))


class Proxies:
    """Where the interface may not be captured: proxies write down what they pass on.

    Clients talk to the proxies. Payloads and times are real; the headers around them are made
    here, with the packets that open and close a connection.
    """

    def __init__(self) -> None:
        self._frames: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._closers: list[Callable[[], None]] = []

    async def open(self, application: Application) -> int:
        """A proxy before an application; its port."""
        if application.transport == "tcp":
            server = await asyncio.start_server(
                lambda reader, writer: self._pass_on(application.port, reader, writer), HOST, 0
            )
            self._closers.append(server.close)
            return int(server.sockets[0].getsockname()[1])
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _DatagramProxy(application.port, self._write), local_addr=(HOST, 0)
        )
        self._closers.append(transport.close)
        return int(transport.get_extra_info("sockname")[1])

    def close(self) -> None:
        """Stop listening."""
        for close in self._closers:
            close()

    def batches(self, stop: Callable[[], bool], *, poll_s: float = 0.02) -> Iterator[PacketBatch]:
        """Packets as they are written down; an empty batch where none is."""
        while True:
            found: list[tuple[int, bytes]] = []
            try:
                found.append(self._frames.get(timeout=poll_s))
                while True:
                    found.append(self._frames.get_nowait())
            except queue.Empty:
                pass
            if not found and stop():
                return
            yield PacketBatch.from_packets(
                [frame for _, frame in found], timestamp_ns=[when for when, _ in found]
            )

    async def _pass_on(
        self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        theirs, ours = (writer.get_extra_info(name)[1] for name in ("peername", "sockname"))
        far_reader, far_writer = await asyncio.open_connection(HOST, port)
        for ends, flags in (((theirs, ours), SYN), ((ours, theirs), SYN | ACK),
                            ((theirs, ours), ACK)):  # fmt: skip
            self._write(tcp_header(*ends, flags), 6)

        async def one_way(
            source: asyncio.StreamReader, target: asyncio.StreamWriter, ends: tuple[int, int]
        ) -> None:
            try:
                while data := await source.read(65_536):
                    for begin in range(0, len(data), SEGMENT_BYTES):
                        header = tcp_header(*ends, ACK | PUSH)
                        self._write(header + data[begin : begin + SEGMENT_BYTES], 6)
                    target.write(data)
                    await target.drain()
                target.write_eof()
            except (ConnectionError, OSError):
                pass
            self._write(tcp_header(*ends, ACK | FIN), 6)

        await asyncio.gather(
            one_way(reader, far_writer, (theirs, ours)), one_way(far_reader, writer, (ours, theirs))
        )
        far_writer.close()
        writer.close()

    def _write(self, segment: bytes, protocol: int) -> None:
        self._frames.put((time.time_ns(), ethernet_frame(segment, protocol)))


class _DatagramProxy(asyncio.DatagramProtocol):
    def __init__(self, port: int, write: Callable[[bytes, int], None]) -> None:
        self._port = port
        self._write = write
        self._sockets: dict[tuple[str, int], asyncio.DatagramTransport] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The event loop's datagram transports are none by inheritance.
        self._transport = cast(asyncio.DatagramTransport, transport)
        self._ours = int(transport.get_extra_info("sockname")[1])

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._note(addr[1], self._ours, data)
        far = self._sockets.get(addr)
        if far is not None:
            far.sendto(data)
            return
        asyncio.get_running_loop().create_task(self._first(data, addr))

    def connection_lost(self, error: Exception | None) -> None:
        del error
        for far in self._sockets.values():
            far.close()

    async def _first(self, data: bytes, addr: tuple[str, int]) -> None:
        proxy = self

        class Back(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, _: tuple[str, int]) -> None:
                proxy._note(proxy._ours, addr[1], data)
                proxy._transport.sendto(data, addr)

        far, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Back, remote_addr=(HOST, self._port)
        )
        self._sockets[addr] = far
        far.sendto(data)

    def _note(self, source: int, target: int, data: bytes) -> None:
        header = struct.pack(">HHHH", source, target, 8 + len(data), 0)
        self._write(header + data, 17)


def tcp_header(source: int, target: int, flags: int) -> bytes:
    """20 bytes; sequence numbers stay zero, which no feature sees."""
    return struct.pack(">HHIIBBHHH", source, target, 0, 0, 5 << 4, flags, 65_535, 0, 0)


def ethernet_frame(segment: bytes, protocol: int) -> bytes:
    """The segment from loopback to loopback."""
    local = socket.inet_aton(HOST)
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(segment), 0, 0x4000, 64, protocol, 0, local, local
    )
    return bytes(12) + b"\x08\x00" + ip + segment


class Background(threading.Thread):
    """Runs a coroutine beside the main thread, and keeps what it returned or raised."""

    def __init__(self, work: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: BaseException | None = None
        self.result = 0

    def run(self) -> None:
        """See `threading.Thread`."""
        try:
            self.result = self._work()
        except BaseException as error:
            self._error = error

    def outcome(self) -> int:
        """Wait for it.

        Raises:
            BaseException: what the work raised.
        """
        self.join()
        if self._error is not None:
            raise self._error
        return self.result
