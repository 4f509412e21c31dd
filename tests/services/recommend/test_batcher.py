import asyncio
import itertools

import pytest

from services.recommend.batcher import Batcher, OverloadedError
from tests.event_loop import run_alone


def squares(batches):
    def compute(numbers):
        batches.append(list(numbers))
        return [number * number for number in numbers]

    return compute


def test_what_waits_is_computed_together_up_to_the_bound():
    batches = []
    batcher = Batcher(squares(batches), max_batch=4, clock=lambda: 0.0)

    async def ask():
        return await asyncio.gather(*[batcher.ask(number) for number in range(10)])

    assert run_alone(ask()) == [number * number for number in range(10)]
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert batcher.depth == 0


def test_one_that_comes_alone_waits_for_nobody():
    batches = []
    batcher = Batcher(squares(batches))

    async def ask():
        return await asyncio.wait_for(batcher.ask(3), timeout=5)

    assert run_alone(ask()) == 9
    assert batches == [[3]]


def test_who_was_answered_together_is_waited_for_a_moment():
    batches = []
    now = 0.0
    batcher = Batcher(squares(batches), clock=lambda: now)

    async def ask_again(number):
        await batcher.ask(number)
        await asyncio.sleep(0)  # the answer takes as many rounds of the loop as it likes
        return await batcher.ask(number)

    async def ask():
        nonlocal now
        await asyncio.gather(*[ask_again(number) for number in range(3)])
        # One of them alone is not waited for longer than a moment, and later not at all.
        await asyncio.wait_for(batcher.ask(7), timeout=5)
        now = 1.0
        await batcher.ask(8)

    run_alone(ask())
    assert batches == [[0, 1, 2], [0, 1, 2], [7], [8]]


def test_slow_batches_become_small_so_that_the_loop_comes_round():
    batches = []
    clock = itertools.count(step=0.05).__next__  # every look at the clock, 50 ms later
    batcher = Batcher(squares(batches), max_batch=8, deadline_s=1e9, clock=clock)

    async def ask():
        await batcher.ask(1)
        await asyncio.gather(*[batcher.ask(number) for number in range(4)])

    run_alone(ask())
    assert [len(batch) for batch in batches] == [1] * 5


def test_what_cannot_be_answered_in_time_is_refused():
    now = 0.0
    batches = []
    batcher = Batcher(squares(batches), max_queue=3, deadline_s=1.0, clock=lambda: now)

    async def ask():
        nonlocal now
        waiting = [batcher.ask(number) for number in range(3)]
        with pytest.raises(OverloadedError, match="queue"):
            batcher.ask(4)
        now = 2.0
        return await asyncio.gather(*waiting, return_exceptions=True)

    found = run_alone(ask())
    assert [each.reason for each in found] == ["deadline"] * 3
    assert batches == []


def test_a_burst_may_wait_for_longer_than_too_many_may():
    now = 0.0

    def compute(numbers):
        nonlocal now
        now += 0.01 * len(numbers)
        return list(numbers)

    batcher = Batcher(compute, max_batch=4, deadline_s=1.0, clock=lambda: now)

    async def ask():
        nonlocal now
        await batcher.ask(0)  # it knows what a request costs
        now += 10.0
        burst = [batcher.ask(number) for number in range(45)]  # the last one waits for .45 s
        assert await asyncio.gather(*burst) == list(range(45))
        # Twice as many as it can answer, for a second: the queue becomes long, and then short.
        waits, refused, under_way = [], 0, []
        for _ in range(100):
            for _ in range(8):
                try:
                    asked_at, future = now, batcher.ask(1)
                except OverloadedError:
                    refused += 1
                    continue
                future.add_done_callback(lambda _, at=asked_at: waits.append(now - at))
                under_way.append(future)
            await asyncio.sleep(0)
        await asyncio.gather(*under_way)
        return waits, refused

    waits, refused = run_alone(ask())
    assert refused > 300
    assert max(waits) < 0.6
    assert max(waits[len(waits) // 2 :]) < 0.25


def test_a_batch_that_fails_fails_its_own_requests_alone():
    def compute(numbers):
        if 0 in numbers:
            raise ZeroDivisionError
        return [ValueError(number) if number < 0 else 1 / number for number in numbers]

    batcher = Batcher(compute, max_batch=2)

    async def ask():
        asked = [batcher.ask(number) for number in (0, 1, -1, 4)]
        return await asyncio.gather(*asked, return_exceptions=True)

    first, second, third, fourth = run_alone(ask())
    assert isinstance(first, ZeroDivisionError)
    assert isinstance(second, ZeroDivisionError)
    assert isinstance(third, ValueError)
    assert fourth == 0.25
