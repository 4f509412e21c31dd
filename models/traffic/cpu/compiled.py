"""numba's compiler behind a decorator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

R = TypeVar("R")


def compiled(function: Callable[..., R]) -> Callable[..., R]:
    """Compile at the first call, without the GIL. Of its type only the result's is kept.

    The machine code is kept beside the source, in a folder that is named after the text of this
    one: numba itself notices a change of the function's own file only, and would go on with the
    old code of what it calls. Where that folder cannot be written, numba takes the user's cache.
    """
    config: Any = numba.config
    configured = config.CACHE_DIR
    config.CACHE_DIR = configured or str(CACHE)
    try:
        njit = numba.njit(cache=True, nogil=True, error_model="numpy")
        return cast(Callable[..., R], njit(function))
    finally:
        config.CACHE_DIR = configured


def _cache_folder(room: Path) -> Path:
    sources = sorted(room.rglob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return room / "__pycache__" / f"kernels-{digest[:16]}"


CACHE = _cache_folder(Path(__file__).parent)
