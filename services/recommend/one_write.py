"""HTTP connections on which an answer leaves in one write.

The server writes an answer's head and its body apart, which is two calls of the system, wakes the
client twice, and lets it read twice. Here what is written in one round of the event loop leaves
together at its end.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# More than this is not held back, so that the transport can say when a reader is too slow.
_MOST_HELD = 65_536


class OneWrite(HttpToolsProtocol):
    """uvicorn's protocol over a transport that holds writes until the loop comes round."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(cast(asyncio.Transport, _Held(transport, self.loop)))


class _Held:
    """A transport; what it does not do itself the one beneath does."""

    __slots__ = ("_loop", "_size", "_transport", "_waiting")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._waiting: list[bytes] = []
        self._size = 0

    def write(self, data: bytes) -> None:
        """Write it by the end of this round."""
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting.append(data)
        self._size += len(data)
        if self._size > _MOST_HELD:
            self._flush()

    def close(self) -> None:
        """Close once what waits has been written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        waiting, self._waiting, self._size = self._waiting, [], 0
        if waiting and not self._transport.is_closing():
            self._transport.writelines(waiting)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
