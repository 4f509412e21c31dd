"""The allocator of GNU's C library, told to keep what is freed between two layers."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

# Of `mallopt`: the number of a setting, and what glibc would come to by itself once a block of
# 32 MiB was freed.
_SETTINGS = {-1: 64 << 20, -3: 32 << 20}  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD


@cache
def keep_what_is_freed() -> None:
    """Keep up to 64 MiB; once a process.

    A layer's tensors are a megabyte each. Without this their pages go back to the kernel behind
    every layer, and the next one's are zeroed anew.
    """
    with suppress(OSError, AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        for setting, value in _SETTINGS.items():
            mallopt(setting, value)
