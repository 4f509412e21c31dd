"""What the counters of labelled flows say of calibration."""

import numpy as np
import pytest

from services.classify.telemetry import TrafficTelemetry


def calibration_error(telemetry: TrafficTelemetry) -> float:
    """As the alert rule computes it."""
    series = {
        (sample.name, sample.labels["bin"]): sample.value
        for family in telemetry.registry.collect()
        for sample in family.samples
        if "bin" in sample.labels
    }
    bins = {name for _, name in series}
    gaps = [
        abs(
            series["errata_labelled_confidence_total", each]
            - series["errata_labelled_right_total", each]
        )
        for each in bins
    ]
    return sum(gaps) / sum(series["errata_labelled_flows_total", each] for each in bins)


@pytest.mark.parametrize(("overconfident", "expected"), [(0.0, 0.0), (0.3, 0.3)])
def test_confidence_that_is_kept_is_calibrated_and_what_is_not_shows(
    overconfident: float, expected: float
) -> None:
    rng = np.random.default_rng(0)
    telemetry = TrafficTelemetry()
    for confidence in rng.uniform(0.5, 1.0, 4_000):
        telemetry.told(confidence, right=rng.random() < confidence - overconfident)
    assert calibration_error(telemetry) == pytest.approx(expected, abs=0.03)
