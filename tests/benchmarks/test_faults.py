"""A killed Redis and a full disk, under light load: nothing that was acknowledged is lost."""

from benchmarks.faults import measure


def test_nothing_acknowledged_is_lost_and_nobody_waits_in_vain() -> None:
    tallies, lost = measure(["redis_killed", "disk_full"], seconds=1.0, rate=20.0, workers=1)
    assert lost == 0
    killed, full = tallies["redis_killed"], tallies["disk_full"]
    assert killed.availability == 1.0
    assert killed.degraded > 0
    assert killed.acknowledged
    # What cannot be kept is not acknowledged, and said to be the service's affair, not a crash.
    assert full.failures == {"503 /v1/feedback": full.refused}
    assert full.refused > 0
    assert full.answered == full.requests - full.refused
