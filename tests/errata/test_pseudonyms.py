"""`ERRATA_USER_KEY`: a user's id is found nowhere, and the user everywhere."""

import csv
import functools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import polars as pl
import pytest

from errata.application import application
from errata.cli.main import run
from feature_store.error_memory.hashing import source_id
from feature_store.error_memory.log import MemoryLog
from feature_store.offline import FeedbackLog
from feature_store.online import EmbeddedRedis, OnlineStore, connect
from feature_store.pseudonyms import Pseudonyms
from feature_store.registry import Registry
from services.recommend.settings import Limits, ServeSettings
from tests.errata.test_cli import QUICK
from tests.errata.test_cli import write_tables as write_shop
from tests.patience import within
from tests.services.recommend.conftest import publish, serving

eventually = within(30)

USER = "walter.kovacs@example.com"
KEY = Pseudonyms(b"a key that the tests share, no other")
FILMS = [f"film-sea-{number:02}" for number in range(6)]


def write_tables(directory: Path) -> Path:
    """What two users did, of whom one row cannot be read, and who they are."""
    directory.mkdir()
    rows = [(user, item, 1_700_000_000) for user in (USER, "other") for item in FILMS[:3]]
    with (directory / "interactions.csv").open("w") as file:
        csv.writer(file).writerows([("user_id", "item_id", "timestamp"), *rows, (USER, "", 1)])
    (directory / "users.csv").write_text(f"user_id,group[]\n{USER},a\nother,b\n")
    return directory


@pytest.fixture
def home(monkeypatch) -> Iterator[Path]:
    """A home with a version and a key, which the environment names."""
    # A short path: a unix socket's holds at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="errata-") as directory:
        home = Path(directory)
        (home / "user.key").write_bytes(KEY._secret)
        publish(Registry(home / "registry"), home / "staging")
        for name in [each for each in os.environ if each.startswith("ERRATA_")]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("ERRATA_HOME", str(home))
        monkeypatch.setenv("ERRATA_USER_KEY", str(home / "user.key"))
        yield home


def names(content: bytes) -> bool:
    """Whether the user's id stands in it, in plain or in one of the forms that it is sent in."""
    return any(each in content.lower() for each in (b"walter.kovacs", b"kovacs@", b"kovacs%40"))


def files_that_name(*folders: Path) -> list[Path]:
    every = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return [path for path in every if names(path.read_bytes())]


def test_no_file_no_line_and_no_key_of_redis_holds_an_id(home: Path, capsys) -> None:
    """The tables, the service with a Redis of its own, its log and traces: all of a real run."""
    with tempfile.TemporaryDirectory() as folder:
        raw, data = write_tables(Path(folder) / "raw"), home / "data"
        assert run(["import", str(raw), str(data), "--max-reject-share", "0.5"]) == 0
    assert run(["materialise", "--data", str(data)]) == 0
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = {"ERRATA_LOG_LEVEL": "info", "ERRATA_LOG_FORMAT": "json"}
    traces = {"OTEL_TRACES_EXPORTER": "console", "OMP_NUM_THREADS": "1"}
    log = home / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "errata", "serve", f"--port={port}"],
            env=os.environ | said | traces,
            stdout=file,
            stderr=file,
        )
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                eventually_answers(client, process)
                talk(client)
                redis = connect(f"unix://{home / 'redis' / 'redis.sock'}")
                for key in redis.scan_iter():
                    assert not names(key + (redis.dump(key) or b"")), key
                redis.close()
        finally:
            process.terminate()
            process.wait(60)
    assert files_that_name(home) == []
    assert f"/v1/users/{KEY(USER)}/history" in log.read_text()
    # What was kept is the user's all the same.
    feedback = FeedbackLog(home / "offline" / "feedback").read()
    assert set(feedback["user_id"]) == {KEY(USER)}
    capsys.readouterr()
    assert run(["forget-user", USER, "--json"]) == 0
    gone = json.loads(capsys.readouterr().out)
    assert gone["feedback_log"] == 2
    assert gone["redis_keys"] >= 3
    with EmbeddedRedis(home / "redis") as server, connect(server.url) as redis:
        assert not OnlineStore(redis).user(KEY(USER)).events
        assert OnlineStore(redis).user(KEY("other")).events


def eventually_answers(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    def answers() -> bool:
        assert process.poll() is None
        with suppress(httpx.HTTPError):
            return client.get("/readyz").is_success
        return False

    within(120)(answers)


def talk(client: httpx.Client) -> None:
    """Ask and tell as a shop, a dashboard and a stumbling client do."""
    body = {"user_id": USER, "k": 3}
    answer = client.post("/v1/recommendations", json=body).json()
    assert answer["personalised"]  # by what was imported
    taken = {"item_id": answer["items"][0]["item_id"], "prediction_id": answer["prediction_id"]}
    for kind in ("click", "dismiss"):
        assert client.post("/v1/feedback", json={"user_id": USER, "type": kind} | taken).is_success
    assert client.post("/v1/recommendations", json=body | {"k": 0}).status_code == 422
    assert client.post("/v1/feedback", json={"user_id": USER}).status_code == 422
    known = client.get(f"/v1/users/{USER}/history").json()
    assert {each["item_id"] for each in known["events"]} == {*FILMS[:3], taken["item_id"]}
    assert client.get(f"/v1/users/{USER}").status_code == 404
    # Whoever is listed can be asked for, by the name on the list.
    listed = client.get("/v1/users").json()["users"]
    assert sorted(listed) == sorted([KEY(USER), KEY("other")])
    assert client.get(f"/v1/users/{KEY(USER)}/history").json()["events"] == known["events"]
    assert client.post("/v1/recommendations", json={"user_id": KEY(USER)}).json()["personalised"]


def serve_settings(home: Path, redis_url: str, **changes) -> ServeSettings:
    return ServeSettings(
        registry=str(home / "registry"),
        redis_url=redis_url,
        offline=home / "offline",
        device="cpu",
        refresh_s=0.05,
        limits=Limits(deadline_ms=20_000),
        **({"pseudonyms": KEY} | changes),
    )


def test_a_stream_of_outcomes_keeps_no_id(home: Path, redis_server, redis_client) -> None:
    """Neither of those that were learned from, nor of those that could not be."""
    build = functools.partial(application, labels_stream="outcomes")
    with serving(serve_settings(home, redis_server.url), build) as client:
        answer = client.post("/v1/recommendations", json={"user_id": USER, "k": 3}).json()
        outcome = {
            "user_id": USER,
            "item_id": answer["items"][0]["item_id"],
            "prediction_id": answer["prediction_id"],
        }
        redis_client.xadd("outcomes", {"json": json.dumps(outcome)})
        redis_client.xadd("outcomes", outcome | {"misspelt": USER})
        redis_client.xadd("outcomes", {"json": f"no json of {USER}"})
        memory = MemoryLog(redis_client, model="recommender", version=answer["model_version"])
        eventually(lambda: memory.position() == 1)
        eventually(lambda: redis_client.xlen("outcomes:rejected") == 2)
        eventually(lambda: redis_client.xlen("outcomes") == 0)
        for key in redis_client.scan_iter():
            assert not names(key + (redis_client.dump(key) or b"")), key
    (batch,) = (batch for _, batch in memory.entries())
    assert int(batch.sources[0]) == source_id(KEY(USER))
    assert files_that_name(home) == []


def test_an_operator_forgets_a_source_by_the_id(
    home: Path, redis_server, redis_client, monkeypatch
) -> None:
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    assert run(["memory", "forget", "--where", f"source={USER}"]) == 0
    version = Registry(home / "registry").resolve("recommender", "champion")
    (decided,), _ = MemoryLog(redis_client, model="recommender", version=version).controls()
    assert decided.values == {"id": str(source_id(KEY(USER))), "source": KEY(USER)}


@pytest.mark.parametrize("from_tables", [True, False], ids=["tables", "redis"])
def test_scores_find_users_and_name_them_as_they_were_asked_for(
    home: Path, tmp_path: Path, redis_server, redis_client, monkeypatch, from_tables: bool
) -> None:
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    data = write_tables(tmp_path / "raw")
    imported = tmp_path / "data"
    assert run(["import", str(data), str(imported), "--max-reject-share", "0.5"]) == 0
    assert run(["materialise", "--data", str(imported)]) == 0
    asked = tmp_path / "asked.csv"
    asked.write_text(f"user_id\nstranger\n{USER}\n{KEY('other')}\n")
    command = ["score", "recommender", "--users", str(asked), "--k", "2"]
    command += ["--data", str(imported)] if from_tables else []
    assert run([*command, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = pl.read_parquet(tmp_path / "out" / "*.parquet")
    known = dict(found.select("user_id", "personalised").iter_rows())
    assert known == {"stranger": False, USER: True, KEY("other"): True}
    assert found.columns == ["user_id", "item_ids", "scores", "personalised", "model_version"]


def test_a_version_says_which_key_named_its_users(
    home: Path, tmp_path: Path, redis_server, redis_client, capsys, caplog
) -> None:
    """From training on raw tables to the services that have, and have not, the key."""
    data = write_shop(tmp_path / "shop")
    assert run(["train", "recommender", "--data", str(data), "--promote", *QUICK]) == 0
    registry = Registry(home / "registry")
    assert registry.manifest("recommender", "champion").user_key == KEY.key_id
    with serving(serve_settings(home, redis_server.url)) as client:
        assert client.get("/readyz").json()["status"] == "ok"
    caplog.clear()
    with serving(serve_settings(home, redis_server.url, pseudonyms=None)) as client:
        health = client.get("/readyz").json()
        told = f"named users by the key {KEY.key_id}, and here they are named as they are sent"
        assert health["status"] == "degraded"
        assert told in health["reasons"][0]
        assert told in caplog.text
        # The answers are as good as they are for strangers.
        answer = client.post("/v1/recommendations", json={"user_id": "u1"}).json()
        assert not answer["degraded"]


def test_another_key_makes_strangers_and_says_so(
    home: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    raw, data = write_tables(tmp_path / "raw"), tmp_path / "data"
    share = ["--max-reject-share", "0.5"]
    assert run(["import", str(raw), str(data), *share]) == 0
    capsys.readouterr()
    new = tmp_path / "new.key"
    assert run(["users", "key", str(new)]) == 0
    assert new.stat().st_mode & 0o777 == 0o600
    assert run(["users", "key", str(new)]) == 2
    monkeypatch.setenv("ERRATA_USER_KEY", str(new))
    capsys.readouterr()
    assert run(["import", str(data), str(tmp_path / "again")]) == 2
    assert f"named by the key {KEY.key_id}" in capsys.readouterr().err.replace("\n", " ")
    # From the source it goes on, and the names are those that the command says.
    assert run(["import", str(raw), str(tmp_path / "again"), *share]) == 0
    capsys.readouterr()
    assert run(["users", "pseudonym", USER, "--json"]) == 0
    name = json.loads(capsys.readouterr().out)[USER]
    found = pl.read_parquet(tmp_path / "again" / "users.parquet")
    assert name in found["user_id"].to_list()


def test_a_redis_that_names_users_otherwise_is_told(
    home: Path, tmp_path: Path, redis_server, redis_client, capsys, monkeypatch
) -> None:
    """Whoever comes first decides; loading into another's is refused, serving from it is not."""
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    data = write_shop(tmp_path / "shop")
    assert run(["materialise", "--data", str(data)]) == 0
    told = f"Redis (tenant default) names users by the key {KEY.key_id}, and here they are named"
    with serving(serve_settings(home, redis_server.url, pseudonyms=None)) as client:
        assert any(told in each for each in client.get("/readyz").json()["reasons"])
    with serving(serve_settings(home, redis_server.url)) as client:
        assert not any("Redis" in each for each in client.get("/readyz").json()["reasons"])
    monkeypatch.delenv("ERRATA_USER_KEY")
    capsys.readouterr()
    assert run(["materialise", "--data", str(data)]) == 2
    assert told in capsys.readouterr().err.replace("\n", " ")
    assert run(["materialise", "--data", str(data), "--tenant", "another"]) == 0


def test_without_its_key_nothing_starts(home: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("ERRATA_USER_KEY", str(home / "gone.key"))
    for command in (["serve"], ["forget-user", USER], ["users", "pseudonym", USER]):
        assert run(command) == 2
        assert "gone.key holds no key for user ids" in capsys.readouterr().err.replace("\n", " ")
