"""`errata forget-user`: afterwards nothing that is kept names the user."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from errata.cli.main import run
from feature_store.error_memory import ErrorBatch
from feature_store.error_memory.hashing import source_id
from feature_store.error_memory.log import MemoryLog
from feature_store.offline import FeedbackLog, FeedbackRecord, Spool
from feature_store.online import Event, OnlineStore, StoredPrediction, connect
from services.recommend.schemas import RecommendationRequest
from services.recommend.users import KnownUser, Users
from services.recommend.warm_up import RecentQueries

USER, OTHER = "walter-\N{LATIN SMALL LETTER E WITH ACUTE}*", "someone-else"


def record(user_id: str, number: int) -> FeedbackRecord:
    return FeedbackRecord(
        f"f-{number}", user_id, "item", "click", 1.0, number * 86_400_000, None, None
    )


def errors(user_id: str, n: int) -> ErrorBatch:
    return ErrorBatch.of(
        np.ones((n, 4), np.float32),
        np.ones((n, 1), np.float32),
        np.full((n, 1), 0.5, np.float32),
        sources=np.full(n, source_id(user_id), np.uint64),
    )


@pytest.fixture
def home(tmp_path: Path, redis_server, redis_client, monkeypatch) -> Path:
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path))
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    return tmp_path


def fill(home: Path, client) -> tuple[OnlineStore, MemoryLog]:
    feedback = FeedbackLog(home / "offline" / "feedback")
    spool = Spool(home / "offline" / "spool.jsonl")
    store = OnlineStore(client)
    memory = MemoryLog(client, model="recommender", version="v1")
    for user in (USER, OTHER):
        for number in range(3):
            feedback.append(record(user, number))
        spool.append(record(user, 7))
        store.append(user, Event("item", 1), feedback_id="f-1", hide=True)
        store.materialise([(user, [Event("old", 0)])], {user: {"age": 5}})
        kept = StoredPrediction(f"p-{user[:3]}", user, "v1", 1)
        store.put_predictions([kept], ttl_s=60)
        memory.append(errors(user, 2))
    memory.append(errors(OTHER, 1))
    return store, memory


def test_nothing_names_the_user_afterwards_and_others_stay(home, redis_client, capsys) -> None:
    store, memory = fill(home, redis_client)
    assert run(["forget-user", USER, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "feedback_log": 3,
        "feedback_queue": 1,
        "redis_keys": 6,
        "memory_removed": 2,
        "memory_silenced": 0,
    }
    needles = (USER.encode(), json.dumps(USER)[1:-1].encode())
    for path in home.rglob("*"):
        assert not path.is_file() or not any(each in path.read_bytes() for each in needles)
    for key in redis_client.scan_iter():
        assert not any(each in key + (redis_client.dump(key) or b"") for each in needles)
    # The others lost nothing.
    assert len(FeedbackLog(home / "offline" / "feedback").read()) == 3
    assert store.user(OTHER).features == {"age": 5}
    assert store.get_prediction(f"p-{OTHER[:3]}") is not None
    assert sum(len(batch) for _, batch in memory.entries()) == 3


def contents(folder: Path) -> Iterator[bytes]:
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # the server has replaced it meanwhile
            yield path.read_bytes()


def test_the_servers_own_file_is_rewritten_without_the_user(
    home, redis_server, redis_client
) -> None:
    fill(home, redis_client)
    assert run(["forget-user", USER]) == 0
    files = redis_server.directory / "appendonlydir"
    deadline = time.monotonic() + 20
    while any(USER.encode() in content for content in contents(files)):
        assert time.monotonic() < deadline, "the append-only file still names the user"
        time.sleep(0.05)


def test_what_comes_later_of_the_user_is_not_learned_from(home, redis_client) -> None:
    _, memory = fill(home, redis_client)
    assert run(["forget-user", USER]) == 0
    controls, _ = memory.controls()
    assert [each.values for each in controls] == [{"id": str(source_id(USER))}]
    # The stream goes on counting where it was.
    assert memory.append(errors(OTHER, 1)).position == 6


def test_the_newest_entry_is_silenced_and_removed_by_the_next_call(home, redis_client) -> None:
    memory = MemoryLog(redis_client, model="traffic", version="v9")
    memory.append(errors(USER, 1))
    assert run(["forget-user", USER]) == 0
    assert sum(len(batch) for _, batch in memory.entries()) == 1
    memory.append(errors(OTHER, 1))
    assert run(["forget-user", USER]) == 0
    assert sum(len(batch) for _, batch in memory.entries()) == 1


def test_a_replica_drops_what_it_remembered_for_an_outage(
    home, redis_server, redis_client, tmp_path
) -> None:
    fill(home, redis_client)
    own = connect(redis_server.url)
    users = Users(OnlineStore(own), Spool(tmp_path / "other.jsonl"))
    assert users.get([USER, OTHER])[0].events
    assert run(["forget-user", USER]) == 0
    assert users.check()
    own.connection_pool.connection_kwargs["path"] = str(tmp_path / "nowhere")
    own.connection_pool.disconnect()
    walter, other = users.get([USER, OTHER])
    assert not walter.events
    assert other.events


def test_a_replica_drops_what_it_would_warm_the_next_version_with(
    home, redis_client, tmp_path
) -> None:
    fill(home, redis_client)
    recent = RecentQueries()
    users = Users(OnlineStore(redis_client), Spool(tmp_path / "own.jsonl"), forget=recent.forget)
    requests = [RecommendationRequest(user_id=each) for each in (USER, OTHER, None)]
    recent.remember(requests, [*users.get([USER, OTHER]), KnownUser()])
    assert run(["forget-user", USER]) == 0
    assert users.check()
    assert [request.user_id for request, _ in recent.sample()] == [OTHER, None]


def test_feedback_that_comes_in_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """Writers in other threads, each with a log of its own, against a user being forgotten."""
    from concurrent.futures import ThreadPoolExecutor

    def write(_: int) -> None:
        log = FeedbackLog(tmp_path)
        for number in range(50):
            log.append(record(OTHER, number % 2))
            log.append(record(USER, number % 2))

    def forget(_: int) -> int:
        return sum(FeedbackLog(tmp_path).forget(USER) for _ in range(20))

    with ThreadPoolExecutor(8) as pool:
        writing = [pool.submit(write, each) for each in range(4)]
        forgetting = [pool.submit(forget, each) for each in range(2)]
        for each in writing:
            each.result()
        forgotten = sum(each.result() for each in forgetting)
    forgotten += FeedbackLog(tmp_path).forget(USER)
    texts = [path.read_text() for path in tmp_path.glob("day=*/*.jsonl")]
    lines = "".join(texts).splitlines()
    assert len(lines) == 4 * 50
    assert forgotten == 4 * 50


def test_an_unknown_user_is_no_error(home, capsys) -> None:
    assert run(["forget-user", "nobody", "--json"]) == 0
    assert not any(json.loads(capsys.readouterr().out).values())
