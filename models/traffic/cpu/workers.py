"""Threads that share the rows and channels of one kernel's work."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

T = TypeVar("T")
SMALL = 1_000_000  # states updated; below, waking a thread costs more than it brings


def share(
    part: Callable[[int, int, int, int], T], rows: int, channels: int, lanes: int, *, work: int
) -> list[T]:
    """Call `part(begin, end, low, high)` on as many parts as torch has threads, all rows by all
    channels in all, and give what they gave, in order.

    Rows are shared first; channels, in multiples of `lanes`, where rows are too few. `part` must
    release the GIL.
    """
    threads = min(torch.get_num_threads(), 1 + work // SMALL)
    across_rows = min(threads, rows)
    across_channels = min(threads // across_rows, channels // lanes)
    row_cuts = [rows * i // across_rows for i in range(across_rows + 1)]
    groups = channels // lanes
    channel_cuts = [lanes * (groups * i // across_channels) for i in range(across_channels + 1)]
    parts = [
        (begin, end, low, high)
        for begin, end in itertools.pairwise(row_cuts)
        for low, high in itertools.pairwise(channel_cuts)
    ]
    # The last part is done here; a nested call never waits for a thread that waits for it.
    others = [_pool(os.getpid(), threads).submit(part, *each) for each in parts[:-1]]
    mine = part(*parts[-1])
    return [*(other.result() for other in others), mine]


@lru_cache(maxsize=4)
def _pool(_process: int, threads: int) -> ThreadPoolExecutor:
    """Threads do not survive a fork: a child process has a pool of its own."""
    return ThreadPoolExecutor(max_workers=threads, thread_name_prefix="kernel")
