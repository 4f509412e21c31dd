"""Dozens of requests and captures that nobody should send; `benchmarks.fuzz` sends thousands."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fuzz import fuzz
from benchmarks.serving.hostile import mutate
from tests.pipelines.traffic.conftest import write_captures


@pytest.mark.filterwarnings("ignore")  # of schemathesis and what it imports
def test_nothing_that_is_sent_makes_the_service_fail_die_or_hang(tmp_path: Path) -> None:
    write_captures(tmp_path, recordings=2, flows=4)
    requests, captures = fuzz(tmp_path, requests=36, captures=30)
    assert (requests.sent, captures.sent) == (36, 30)
    assert requests.failed == 0, requests.failures
    assert captures.failed == 0, captures.failures
    # It was understood enough to get somewhere.
    assert captures.statuses[200] > 0
    assert requests.statuses[200] > 0


def test_mutants_differ_and_are_the_same_for_the_same_seed() -> None:
    body = bytes(range(200))
    once, again = (
        [mutate(body, body[::-1], np.random.default_rng(seed)) for seed in range(50)]
        for _ in range(2)
    )
    assert once == again
    assert len(set(once)) > 45
