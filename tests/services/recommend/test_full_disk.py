"""The feedback's file system is full: a real one, of 256 KB, of this test's own."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from feature_store.offline import FeedbackLog, Spool
from tests.services.recommend.conftest import publish, serving
from tests.services.recommend.test_degraded import ask, eventually, own_redis  # noqa: F401


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "offline"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "errata-test", str(directory)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(directory: Path) -> Path:
    """Take all room that is left."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4_096))
    assert not FeedbackLog(directory / "feedback").takes()
    return ballast


def send(client, number: int):
    body = {"user_id": f"u{number}", "item_id": "film-sea-01", "feedback_id": f"f{number}"}
    return client.post("/v1/feedback", json=body)


def send_until_refused(client, *, begin: int, most: int = 200) -> tuple[list[int], int]:
    """(those that were acknowledged, the one that was not)."""
    for number in range(begin, begin + most):
        answer = send(client, number)
        if answer.status_code != 200:
            assert answer.status_code == 503
            assert answer.json()["title"] == "Feedback cannot be kept"
            assert answer.headers["retry-after"] == "5"
            return list(range(begin, number)), number
    raise AssertionError("a full disk took everything")


def test_answers_go_on_and_what_was_acknowledged_is_kept(registry, settings, tmp_path, volume):
    publish(registry, tmp_path / "staging")
    with serving(settings()) as client:
        kept = [number for number in range(3) if send(client, number).is_success]
        ballast = fill(volume)
        # The rest of a page may still take some; the record at its end is torn.
        more, refused = send_until_refused(client, begin=3)
        for number in range(refused, refused + 3):
            assert send(client, number).status_code == 503
        answer = ask(client, user_id="u0", k=5)
        assert answer["items"]
        assert not answer["degraded"]
        ready = client.get("/readyz")
        assert ready.status_code == 200
        assert "feedback cannot be kept: No space left on device" in ready.json()["reasons"]
        assert 'errata_feedback_total{status="refused"} 4.0' in client.get("/metrics").text

        ballast.unlink()
        # By itself, before anybody sends again.
        eventually(lambda: client.get("/readyz").json()["status"] == "ok")
        assert send(client, refused).json()["status"] == "applied"
    logged = FeedbackLog(volume / "feedback").read()["feedback_id"].to_list()
    assert sorted(logged) == sorted(f"f{number}" for number in [*kept, *more, refused])


def test_a_full_disk_while_redis_is_away_loses_nothing_either(
    registry,
    settings,
    tmp_path,
    volume,
    own_redis,  # noqa: F811
):
    """Then what waits for Redis cannot be written down either."""
    publish(registry, tmp_path / "staging")
    with serving(settings(redis_url=own_redis.url)) as client:
        own_redis.stop()
        eventually(lambda: client.get("/readyz").json()["status"] == "degraded")
        assert send(client, 0).json()["status"] == "stored"
        ballast = fill(volume)
        kept, refused = send_until_refused(client, begin=1)
        assert ask(client, user_id="u0", k=5)["degraded"]
        own_redis.start()
        ballast.unlink()
        eventually(lambda: client.get("/readyz").json()["status"] == "ok")
        eventually(lambda: Spool(volume / "spool.jsonl").empty)
        assert send(client, refused).is_success
        for number in [0, *kept, refused]:
            assert len(client.get(f"/v1/users/u{number}/history").json()["events"]) == 1
