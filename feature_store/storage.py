"""Where files lie: on a local path, or in an object store that fsspec knows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec


def open_storage(url: str) -> tuple[Any, str]:
    """The file system of a path or URL, and the path in it.

    Raises:
        ValueError: fsspec knows no such store, or needs a package for it that is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"{url} cannot be reached: {error}") from error
    return fs, str(path)


@contextmanager
def asking(path: str) -> Iterator[None]:
    """Around calls of a file system.

    Raises:
        OSError: the store does not answer, or refuses. Each client has classes of its own for that,
            most of which are no OSError.
    """
    try:
        yield
    except OSError:  # FileNotFoundError among them
        raise
    except Exception as error:  # whatever this client calls it
        raise OSError(f"{path} cannot be reached: {error}") from error


def is_local(fs: Any) -> bool:
    """Whether a file system is this machine's."""
    protocol = fs.protocol
    return "file" in (protocol if isinstance(protocol, tuple) else (protocol,))
