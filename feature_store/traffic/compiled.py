"""numba's compiler behind a decorator that keeps a function's type."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile at the first call, without the GIL, with wrapping integers as in C.

    The machine code is kept beside the source, in a folder that is named after the text of the
    whole room: numba itself notices a change of the function's own file only, and would go on
    with the old code of what it calls. Where that folder cannot be written, numba takes the
    user's cache.

    Array bounds are not checked unless the environment says `NUMBA_BOUNDSCHECK=1`.
    """
    config: Any = numba.config
    configured = config.CACHE_DIR
    config.CACHE_DIR = configured or str(CACHE)
    try:
        return cast(F, numba.njit(cache=True, nogil=True, error_model="numpy")(function))
    finally:
        config.CACHE_DIR = configured


def cache_folder(room: Path) -> Path:
    """Where the machine code of a folder's sources is kept."""
    sources = sorted(room.rglob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return room / "__pycache__" / f"kernels-{digest[:16]}"


CACHE = cache_folder(Path(__file__).parent)


@compiled
def int64(value: Any) -> int:
    """Widen a byte, as a signed number: unsigned and signed words together would make a float."""
    return np.int64(value)  # type: ignore[return-value]
