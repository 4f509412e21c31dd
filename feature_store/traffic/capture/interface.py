"""Packets of a live Linux interface, from a ring that the kernel fills (AF_PACKET, TPACKET_V3).

The layouts are those of linux/if_packet.h; Documentation/networking/packet_mmap.rst tells how a
block goes from the kernel to the reader and back.
"""

from __future__ import annotations

import mmap
import os
import select
import shlex
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.damage import Damage
from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.compiled import compiled, int64

SOL_PACKET = 263
PACKET_ADD_MEMBERSHIP, PACKET_RX_RING, PACKET_STATISTICS, PACKET_VERSION = 1, 5, 6, 10
PACKET_MR_PROMISC = 1
TPACKET_V3 = 2
ETH_P_ALL = 3
PACKET_OUTGOING = 4
TP_STATUS_KERNEL, TP_STATUS_USER = 0, 1

BLOCK_BYTES = 1 << 20
BLOCK_TIMEOUT_MS = 20  # a block that is not full is handed over after this
BLOCK_STATUS, BLOCK_PACKETS, BLOCK_FIRST, BLOCK_USED = 8, 12, 16, 20  # offsets in a block
ADDRESS_OFFSET = 48  # struct sockaddr_ll, behind the aligned struct tpacket3_hdr

# ARPHRD_ numbers of linux/if_arp.h → LINKTYPE_
LINK_TYPES = {1: 1, 772: 1, 65534: 101, 512: 9, 519: 101, 776: 101, 768: 101}
ARPHRD_LOOPBACK = 772


class InterfaceUnavailableError(Exception):
    """The interface cannot be captured; the message is one line that says what to do."""


def open_interface(
    name: str,
    *,
    ring_bytes: int = 16 << 20,
    promiscuous: bool = True,
    poll_s: float = 0.1,
    stop: Callable[[], bool] = lambda: False,
) -> InterfaceCapture:
    """Capture the live interface `name` until `stop()`.

    Args:
        ring_bytes: memory that the kernel fills; what does not fit is dropped and counted.
        promiscuous: also packets that are for other machines.
        poll_s: longest wait before an empty batch says that time has passed.

    Raises:
        InterfaceUnavailableError: no such interface, no permission, or not Linux.
    """
    if sys.platform != "linux":
        raise InterfaceUnavailableError("live capture needs Linux; give a capture file instead")
    try:
        ring_socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError:
        raise InterfaceUnavailableError(_without_capability(name)) from None
    except OSError as error:
        raise InterfaceUnavailableError(
            f"this kernel gives no packet sockets ({error.strerror}); give a capture file instead"
        ) from None
    try:
        return InterfaceCapture(ring_socket, name, ring_bytes, promiscuous, poll_s, stop)
    except OSError as error:
        ring_socket.close()
        raise InterfaceUnavailableError(
            f"cannot capture {name}: {error.strerror or error}"
        ) from None
    except InterfaceUnavailableError:
        ring_socket.close()
        raise


def _without_capability(name: str) -> str:
    # setcap refuses a symlink, which the interpreter of a virtual environment is.
    interpreter = shlex.quote(os.path.realpath(sys.executable))
    return (
        f"capturing {name} needs the capability CAP_NET_RAW. For one command: run it as root, or "
        "by `sudo -E setpriv --reuid=$(id -u) --regid=$(id -g) --init-groups --inh-caps=+net_raw "
        "--ambient-caps=+net_raw COMMAND`. For good: `sudo setcap cap_net_raw+ep "
        f"{interpreter}`; every program that this interpreter runs may capture then, whoever "
        "starts it"
    )


class InterfaceCapture:
    """A live ring: iterate it once. An empty batch says that `poll_s` passed without a packet.

    Raises:
        InterfaceUnavailableError: while iterating, when the interface goes down.
    """

    def __init__(
        self,
        ring_socket: socket.socket,
        name: str,
        ring_bytes: int,
        promiscuous: bool,
        poll_s: float,
        stop: Callable[[], bool],
    ) -> None:
        self.damage: Counter[Damage] = Counter()
        self._name = name
        self._socket = ring_socket
        self._poll_s = poll_s
        self._stop = stop
        self._blocks = max(ring_bytes // BLOCK_BYTES, 2)
        ring_socket.setsockopt(SOL_PACKET, PACKET_VERSION, TPACKET_V3)
        frame_bytes = 2048
        request = struct.pack(
            "7I",
            BLOCK_BYTES,
            self._blocks,
            frame_bytes,
            self._blocks * BLOCK_BYTES // frame_bytes,
            BLOCK_TIMEOUT_MS,
            0,
            0,
        )
        ring_socket.setsockopt(SOL_PACKET, PACKET_RX_RING, request)
        self._map = mmap.mmap(ring_socket.fileno(), self._blocks * BLOCK_BYTES)
        ring_socket.bind((name, ETH_P_ALL))
        hardware = ring_socket.getsockname()[3]
        if hardware not in LINK_TYPES:
            raise InterfaceUnavailableError(
                f"cannot capture {name}: its hardware type {hardware} is not Ethernet or IP"
            )
        self._link_type = LINK_TYPES[hardware]
        # The kernel shows each packet of the loopback twice: leaving and arriving.
        self._skip_outgoing = hardware == ARPHRD_LOOPBACK
        if promiscuous and not self._skip_outgoing:
            membership = struct.pack(
                "iHH8s", socket.if_nametoindex(name), PACKET_MR_PROMISC, 0, b""
            )
            ring_socket.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, membership)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the interface and give the ring back."""
        self._map.close()
        self._socket.close()

    def __iter__(self) -> Iterator[PacketBatch]:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | select.POLLERR)
        block = 0
        while not self._stop():
            base = block * BLOCK_BYTES
            status, packets, _, used = struct.unpack_from("4I", self._map, base + BLOCK_STATUS)
            if not status & TP_STATUS_USER:
                if not poll.poll(self._poll_s * 1000):
                    yield PacketBatch.empty()
                self._check_error()
                self._count_drops()
                continue
            data = np.frombuffer(bytearray(self._map[base : base + max(used, 48)]), np.uint8)
            struct.pack_into("I", self._map, base + BLOCK_STATUS, TP_STATUS_KERNEL)
            block = (block + 1) % self._blocks
            batch = self._packets(data, packets)
            if len(batch):
                yield batch
        self._count_drops()

    def _packets(self, data: NDArray[np.uint8], packets: int) -> PacketBatch:
        columns = np.empty((4, packets), np.int64)
        count = walk_block(data, packets, self._skip_outgoing, columns)
        offset, captured, length, timestamp_ns = columns[:, :count]
        link_type = np.full(count, self._link_type, np.int64)
        return PacketBatch(data, offset, captured, length, timestamp_ns, link_type)

    def _check_error(self) -> None:
        error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise InterfaceUnavailableError(f"lost {self._name}: {os.strerror(error)}")

    def _count_drops(self) -> None:
        statistics = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 12)
        dropped = struct.unpack("3I", statistics)[1]
        if dropped:
            self.damage[Damage.KERNEL_DROPPED] += dropped


@compiled
def walk_block(
    data: NDArray[np.uint8], packets: int, skip_outgoing: bool, columns: NDArray[np.int64]
) -> int:
    """Write offset, captured, length and time of a block's packets into the rows of `columns`."""
    words = data[: data.size // 4 * 4].view(np.uint32)
    at = int64(words[BLOCK_FIRST // 4])
    count = 0
    for _ in range(packets):
        header = at // 4
        captured = int64(words[header + 3])
        frame = at + int64(words[header + 6] & np.uint32(0xFFFF))
        if frame + captured > data.size:
            break
        if not (skip_outgoing and data[at + ADDRESS_OFFSET + 10] == PACKET_OUTGOING):
            columns[0, count] = frame
            columns[1, count] = captured
            columns[2, count] = max(captured, int64(words[header + 4]))
            seconds, nanoseconds = int64(words[header + 1]), int64(words[header + 2])
            columns[3, count] = seconds * 1_000_000_000 + nanoseconds
            count += 1
        at += int64(words[header])
    return count
