"""Ctrl-C that ends a long computation at once, and says what becomes of the work.

Python raises KeyboardInterrupt between two of its own instructions: while a matrix is being
inverted, for minutes, it cannot. The signal itself is seen at once by a thread that waits for it;
where the exception has not come through in time, that thread ends the process. Only for commands
that a kill does not hurt: their files are written whole or not at all.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer

INTERRUPTED = 130
_SHOW_CURSOR = "\x1b[?25h"


@contextmanager
def ends_promptly(farewell: str, *, patience_s: float = 0.5) -> Iterator[None]:
    """End within `patience_s` of Ctrl-C, with exit code 130 and `farewell` on standard error.

    Raises:
        typer.Abort: with the farewell, where the interpreter came through in time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    unwound = threading.Event()
    threading.Thread(
        target=_watch, args=(reader, unwound, farewell, patience_s), daemon=True
    ).start()
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Abort(farewell) from None
    finally:
        unwound.set()
        signal.set_wakeup_fd(before)
        writer.close()


def _watch(
    reader: socket.socket, unwound: threading.Event, farewell: str, patience_s: float
) -> None:
    with reader:
        while signals := reader.recv(64):
            if signal.SIGINT in signals and not unwound.wait(patience_s):
                # Past the console: a progress bar may hold it, and hides the cursor.
                shown = _SHOW_CURSOR if os.isatty(2) else ""
                os.write(2, f"{shown}\n{farewell}\n".encode())
                os._exit(INTERRUPTED)
