"""The bytes of a capture in order: plain or gzip, finished or still being written."""

from __future__ import annotations

import time
import zlib
from collections import Counter
from collections.abc import Callable
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.damage import Damage

GZIP_MAGIC = b"\x1f\x8b"
COMPRESSED_CHUNK_BYTES = 1 << 16


class ByteSource:
    """Fills buffers from a stream, gunzipping it when it begins as gzip does (RFC 1952).

    Args:
        stream: opened for reading bytes; a pipe will do.
        damage: where a broken gzip stream is counted.
        follow: at the end, wait `poll_s` and look again, until `stop()`.
    """

    def __init__(
        self,
        stream: BinaryIO,
        *,
        damage: Counter[Damage],
        follow: bool = False,
        poll_s: float = 0.1,
        stop: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._stream = stream
        self._damage = damage
        self._follow = follow
        self._poll_s = poll_s
        self._stop = stop
        self._sleep = sleep
        self._head = b""
        self._gunzip: zlib._Decompress | None = None
        self._sniffed = False
        self._broken = False
        self.ended = False

    def fill(self, buffer: NDArray[np.uint8]) -> int:
        """Write the next bytes into `buffer`; 0 at the end, or when a followed file has no more
        yet (`ended` tells the two apart)."""
        if not self._sniffed and not self._sniff():
            return 0
        got = self._fill_gunzipped(buffer) if self._gunzip else self._fill_plain(buffer)
        if got == 0:
            self._pause()
        return got

    def _pause(self) -> None:
        if self._broken or not self._follow or self._stop():
            self.ended = True
        else:
            self._sleep(self._poll_s)

    def _sniff(self) -> bool:
        while len(self._head) < len(GZIP_MAGIC):
            more = self._read(len(GZIP_MAGIC) - len(self._head))
            if not more:
                self._pause()
                if not self.ended:
                    return False
                break
            self._head += more
        if self._head == GZIP_MAGIC:
            self._gunzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
        self._sniffed = True
        self.ended = False
        return True

    def _read(self, size: int) -> bytes:
        # A pipe's `read` waits for all of `size`; `read1` hands over what there is.
        read = getattr(self._stream, "read1", self._stream.read)
        return bytes(read(size) or b"")

    def _fill_plain(self, buffer: NDArray[np.uint8]) -> int:
        if self._head:
            got = min(len(self._head), len(buffer))
            buffer[:got] = np.frombuffer(self._head[:got], np.uint8)
            self._head = self._head[got:]
            return got
        readinto = getattr(self._stream, "readinto1", getattr(self._stream, "readinto", None))
        if readinto is not None:
            return int(readinto(buffer.data) or 0)
        chunk = self._read(len(buffer))
        buffer[: len(chunk)] = np.frombuffer(chunk, np.uint8)
        return len(chunk)

    def _fill_gunzipped(self, buffer: NDArray[np.uint8]) -> int:
        while self._gunzip is not None and not self._broken:
            if self._gunzip.eof and not self._next_member():
                return 0
            compressed = self._head or self._gunzip.unconsumed_tail
            self._head = b""
            compressed = compressed or self._read(COMPRESSED_CHUNK_BYTES)
            plain = self._decompressed(compressed, len(buffer))
            if self._gunzip.eof:
                self._head = self._gunzip.unused_data.lstrip(b"\0")
            if plain:
                buffer[: len(plain)] = np.frombuffer(plain, np.uint8)
                return len(plain)
            if not compressed:
                # A followed file may simply not be written to its end yet.
                if not self._follow or self._stop():
                    self._break_off()
                return 0
        return 0

    def _decompressed(self, compressed: bytes, most: int) -> bytes:
        """What the next bytes hold, or what they held before damage."""
        assert self._gunzip is not None
        before = self._gunzip.copy()
        try:
            return self._gunzip.decompress(compressed, most)
        except zlib.error:
            self._break_off()
            return _until_damage(before, compressed)

    def _next_member(self) -> bool:
        """Begin the member behind one that has ended; False where there is none, or none yet."""
        while len(self._head) < len(GZIP_MAGIC):
            more = self._read(COMPRESSED_CHUNK_BYTES)
            if not more:
                if self._head and (not self._follow or self._stop()):
                    self._break_off()
                return False
            self._head = (self._head + more).lstrip(b"\0")
        if not self._head.startswith(GZIP_MAGIC):
            self._break_off()
            return False
        self._gunzip = zlib.decompressobj(zlib.MAX_WBITS | 16)
        return True

    def _break_off(self) -> None:
        self._damage[Damage.GZIP_CORRUPT] += 1
        self._broken = True


def _until_damage(gunzip: zlib._Decompress, compressed: bytes) -> bytes:
    """What damaged bytes hold before the damage, which would raise in its stead. One byte after the
    other, so that how much it is does not depend on how much was asked for at a time."""
    plain = []
    try:
        for at in range(len(compressed)):
            plain.append(gunzip.decompress(compressed[at : at + 1], 1))
            while plain[-1]:
                plain.append(gunzip.decompress(gunzip.unconsumed_tail, 1))
    except zlib.error:
        pass
    return b"".join(plain)
