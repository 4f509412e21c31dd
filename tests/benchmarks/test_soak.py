"""How growth is read off samples of memory."""

import pytest

from benchmarks.soak import Soak


def test_the_slope_is_that_of_the_part_that_is_asked_for() -> None:
    warming_up = [(float(second), 100.0 + second) for second in range(60)]
    steady = [(60.0 + second, 160.0 + second / 3_600) for second in range(60)]
    seen = Soak(memory=warming_up + steady)
    assert seen.slope_mb_per_hour(from_s=60) == pytest.approx(1.0)
    assert seen.slope_mb_per_hour() > 1_000
