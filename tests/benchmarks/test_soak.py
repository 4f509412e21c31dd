"""How growth is read off samples of memory."""

import numpy as np
import pytest

from benchmarks.soak import Slope, floors


def test_a_slope_comes_with_what_noise_alone_would_give_it() -> None:
    rng = np.random.default_rng(0)
    seconds = np.arange(600.0)
    noise = rng.standard_normal(600)
    still = Slope.of(list(zip(seconds, 100 + noise, strict=True)))
    grows = Slope.of(list(zip(seconds, 100 + noise + seconds / 60, strict=True)))
    assert abs(still.mb_per_hour) < 3 * still.standard_error
    assert grows.mb_per_hour == pytest.approx(60, abs=3 * grows.standard_error)
    assert grows.standard_error == pytest.approx(still.standard_error)
    exact = Slope.of([(0.0, 1.0), (60.0, 2.0), (120.0, 3.0)])
    assert exact.mb_per_hour == pytest.approx(60)
    assert exact.standard_error == pytest.approx(0, abs=1e-6)


def test_jumps_between_two_promotions_are_not_growth() -> None:
    samples = [(float(second), 100.0 + 50 * (second % 30 < 5)) for second in range(120)]
    assert floors(samples, 30.0) == [(5.0, 100.0), (35.0, 100.0), (65.0, 100.0), (95.0, 100.0)]
