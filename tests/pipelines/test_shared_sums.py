"""Threads stand for processes: each has a mailbox and reads the same memory."""

import mmap
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.shared_sums import PIECE_BYTES, SharedSums


@contextmanager
def members(size: int, *, timeout_s: float = 60.0) -> Iterator[list[SharedSums]]:
    with ExitStack() as closing:
        mailboxes = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(size)]
        for each in mailboxes:
            each.settimeout(timeout_s)
            each.bind("")
        addresses = [each.getsockname() for each in mailboxes]
        memory = mmap.mmap(-1, 2 * size * PIECE_BYTES)
        found = [SharedSums(memory, each, addresses) for each in mailboxes]
        for each in found:
            closing.callback(each.close)
        yield found


def together(
    sums: list[SharedSums], work: Callable[[int, SharedSums], list[torch.Tensor]]
) -> list[list[torch.Tensor]]:
    with ThreadPoolExecutor(len(sums)) as pool:
        return list(pool.map(work, range(len(sums)), sums))


@settings(deadline=None, max_examples=20)
@given(
    size=st.integers(1, 5),
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=6),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.int64]),
)
def test_every_process_has_the_sum_of_all(size: int, lengths: list[int], dtype: torch.dtype):
    generator = torch.Generator().manual_seed(size)
    given_ = [
        [(100 * torch.randn(n, generator=generator)).to(dtype) for n in lengths]
        for _ in range(size)
    ]

    def work(rank: int, sums: SharedSums) -> list[torch.Tensor]:
        found = [each.clone() for each in given_[rank]]
        for each in found:
            sums.add(each)
        return found

    with members(size) as sums:
        results = together(sums, work)
    for place, parts in enumerate(zip(*given_, strict=True)):
        wanted = torch.stack(parts).double().sum(0)
        torch.testing.assert_close(results[0][place].double(), wanted, atol=1e-4, rtol=1e-5)
        for other in results[1:]:
            assert torch.equal(results[0][place], other[place])  # to the last bit


def test_what_is_larger_than_a_place_goes_piece_by_piece_and_strides_are_kept():
    rows = PIECE_BYTES // 4 // 100 + 1

    def work(rank: int, sums: SharedSums) -> list[torch.Tensor]:
        values = torch.full((rows, 200), float(rank))
        values[:, ::2] = torch.arange(rows)[:, None] + rank
        half, one = values[:, ::2], torch.tensor(rank + 1.0)
        sums.add(half)
        sums.add(one)
        return [values, one]

    with members(2) as sums:
        found = together(sums, work)
    for rank, (values, one) in enumerate(found):
        assert torch.equal(values[:, 0], 2.0 * torch.arange(rows) + 1)
        assert torch.equal(values[:, 198], values[:, 0])
        assert (values[:, 1::2] == rank).all()
        assert one == 3


def test_who_never_comes_is_not_waited_for_for_ever():
    with members(2, timeout_s=0.05) as (first, _), pytest.raises(TimeoutError):
        first.add(torch.zeros(3))
