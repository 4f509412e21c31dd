"""The capture that a command names: standard input, or a file that is there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO


def bytes_of(capture: Path | None, *, follow: bool = False) -> Path | BinaryIO | None:
    """What is read where `capture` is named; None where it is not.

    Raises:
        ValueError: there is no such file, or it is a folder; the message says what to do.
    """
    if capture is None or str(capture) == "-":
        return None if capture is None else sys.stdin.buffer
    if capture.is_dir():
        raise ValueError(
            f"{capture} is a folder: name one capture in it, or write the verdicts on all of them "
            f"with `errata score traffic {capture} --out FOLDER`"
        )
    if capture.exists():
        return capture
    if follow:
        raise ValueError(
            f"there is no file {capture}: --follow waits for more of a file, and does not wait for "
            "the file itself; start what writes it first"
        )
    raise ValueError(f"there is no file {capture}: name a capture, or - for standard input")
