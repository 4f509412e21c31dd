"""Where packets come from, and the clock that goes with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from feature_store.traffic.capture import PacketBatch, open_capture, open_interface
from services.classify.clock import Clock, Replay, WallClock

POLL_S = 0.02


@dataclass(frozen=True)
class Source:
    """Packets, and their clock where they do not wait; `name` is for people."""

    packets: Iterable[PacketBatch]
    clock: Clock | None
    name: str


@contextmanager
def open_source(
    *,
    capture: Path | BinaryIO | None = None,
    interface: str | None = None,
    follow: bool = False,
    replay: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Source]:
    """A capture, or a live interface, for the length of the block.

    Args:
        capture: a file, or a stream of bytes.
        interface: Linux, with the capability CAP_NET_RAW.
        follow: the file is still being written.
        replay: read it at so many times its own speed; as fast as it can be read where left out.
        stop: ends a live interface, a followed file and a replay.

    Raises:
        ValueError: neither or both of capture and interface, or options that do not go together.
        NotACaptureError, InterfaceUnavailableError, OSError: it cannot be read.
    """
    if capture is None and interface is None:
        raise ValueError("nothing to read: name a capture, or --interface NAME")
    if capture is not None and interface is not None:
        named = getattr(capture, "name", capture)
        raise ValueError(
            f"both are named, the capture {named} and the interface {interface}: name one"
        )
    if interface is not None:
        if follow or replay is not None:
            raise ValueError("--follow and --replay are for capture files, not for an interface")
        with open_interface(interface, stop=stop, poll_s=POLL_S) as ring:
            yield Source(ring, WallClock(), interface)
        return
    if follow and replay is not None:
        raise ValueError("--follow reads a file as it is written: leave out --replay")
    assert capture is not None
    with open_capture(capture, follow=follow, stop=stop, poll_s=POLL_S) as packets:
        name = str(getattr(capture, "name", capture))
        if replay is None:
            yield Source(packets, None, name)
        else:
            replayed = Replay(packets, speed=replay, poll_s=POLL_S, stop=stop)
            yield Source(replayed, replayed, name)


def refuse_unavailable(
    *, capture: Path | None, interface: str | None, replay: float | None = None
) -> None:
    """Open what is to be classified later, and let go of it.

    Raises:
        ValueError, NotACaptureError, InterfaceUnavailableError, OSError: see `open_source`.
    """
    if interface is None and capture is not None and not capture.is_file():
        return  # a pipe: what is read of it now would be missing later
    with open_source(capture=capture, interface=interface, replay=replay):
        pass
