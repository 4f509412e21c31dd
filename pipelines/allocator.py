"""Keeps glibc from giving large buffers back to the system at every training step."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_THRESHOLD_BYTES = 1 << 30


def keep_large_buffers() -> None:
    """Raise malloc's mmap and trim thresholds for this process; does nothing outside glibc.

    A step on a CPU allocates and frees buffers of tens of megabytes. By default each comes from
    mmap and goes back at once, and faulting its pages in again costs as much as the arithmetic
    (measured on Gowalla: 14.6 s for eight steps, 6.9 s with the thresholds raised).
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _THRESHOLD_BYTES)
