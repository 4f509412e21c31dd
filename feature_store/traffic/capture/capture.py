"""Open a capture, whatever kind of file it is, and iterate its packets in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.capture.byte_source import ByteSource
from feature_store.traffic.capture.damage import Damage
from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.capture.pcap import MAX_PACKET_BYTES, PcapParser
from feature_store.traffic.capture.pcapng import MAX_BLOCK_BYTES, PcapngParser

CHUNK_BYTES = 1 << 20


class NotACaptureError(Exception):
    """The input is no pcap or pcapng file; the message is one line that says why."""


def open_capture(
    source: str | Path | BinaryIO,
    *,
    follow: bool = False,
    stop: Callable[[], bool] = lambda: False,
    poll_s: float = 0.1,
    chunk_bytes: int = CHUNK_BYTES,
) -> Capture:
    """Open a pcap or pcapng file, or either of them gzipped.

    Args:
        source: a path, or a stream of bytes such as `sys.stdin.buffer`, which stays open.
        follow: the file is still being written: at its end wait for more, until `stop()`.
        poll_s: seconds between two looks at the end of a followed file.
        chunk_bytes: memory for one batch, at least.

    Raises:
        NotACaptureError: it is something else, or empty.
        OSError: the path cannot be opened.
    """
    owned = isinstance(source, str | Path)
    stream = Path(source).open("rb") if isinstance(source, str | Path) else source  # noqa: SIM115
    name = str(source) if owned else getattr(source, "name", "the stream")
    damage: Counter[Damage] = Counter()
    bytes_in_order = ByteSource(stream, damage=damage, follow=follow, poll_s=poll_s, stop=stop)
    try:
        return Capture(
            bytes_in_order,
            damage=damage,
            name=str(name),
            chunk_bytes=chunk_bytes,
            close=stream.close if owned else lambda: None,
        )
    except BaseException:
        if owned:
            stream.close()
        raise


class Parser(Protocol):
    """Finds the packets of one file format.

    Attributes:
        finished: damage ended it; what follows cannot be read.
        owed: bytes to come that belong to what was already consumed.
    """

    finished: bool
    owed: int

    def parse(self, buffer: NDArray[np.uint8]) -> tuple[PacketBatch, int]:
        """The whole packets in `buffer`, and how many of its bytes are done with."""
        ...


class Capture:
    """An open file of packets: iterate it once.

    A followed file yields an empty batch at each look that found nothing, so that whoever reads
    it can let time pass. Damage never raises: `damage` counts it by reason.

    Attributes:
        bytes_read: of the capture so far, unpacked.
    """

    def __init__(
        self,
        source: ByteSource,
        *,
        damage: Counter[Damage],
        name: str,
        chunk_bytes: int,
        close: Callable[[], None],
    ) -> None:
        self.damage = damage
        self.bytes_read = 0
        self._source = source
        self._close = close
        # Room for the largest record beside the beginning of the next.
        self._chunk_bytes = max(chunk_bytes, 64)
        self._buffer = np.empty(self._chunk_bytes, np.uint8)
        self._filled = 0
        self._parser = self._sniff(name)

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
        """Close the file, if opening it was ours."""
        self._close()

    def __iter__(self) -> Iterator[PacketBatch]:
        while not self._parser.finished:
            batch, consumed = self._parser.parse(self._buffer[: self._filled])
            if len(batch):
                yield batch
            self._keep_rest(consumed, shared=len(batch) > 0)
            if self._parser.finished:
                break
            if self._fill() == 0:
                if self._source.ended:
                    break
                yield PacketBatch.empty()
        if (self._filled or self._parser.owed) and not self._parser.finished:
            self.damage[Damage.CUT_SHORT] += 1

    def _sniff(self, name: str) -> Parser:
        while self._filled < 4 and not self._source.ended:
            self._fill()
        magic = self._buffer[: min(self._filled, 4)].tobytes()
        if magic in PcapParser.MAGIC:
            return PcapParser(self.damage)
        if magic == PcapngParser.MAGIC:
            return PcapngParser(self.damage)
        if not magic:
            reason = "it is not a whole gzip file" if self.damage else "it is empty"
        else:
            reason = f"it begins with {magic.hex(' ')}, which is neither pcap nor pcapng"
        raise NotACaptureError(f"{name} is not a capture: {reason}")

    def _fill(self) -> int:
        got = self._source.fill(self._buffer[self._filled :])
        self._filled += got
        self.bytes_read += got
        return got

    def _keep_rest(self, consumed: int, *, shared: bool) -> None:
        rest = self._buffer[consumed : self._filled]
        size = len(self._buffer)
        if len(rest) == size:  # one record fills it all
            size = min(size * 2, MAX_PACKET_BYTES + MAX_BLOCK_BYTES)
        if shared or size != len(self._buffer):
            # The batch that was handed out points into the old buffer.
            fresh = np.empty(max(size, self._chunk_bytes), np.uint8)
            fresh[: len(rest)] = rest
            self._buffer = fresh
        elif consumed:
            self._buffer[: len(rest)] = rest.copy()
        self._filled = len(rest)
