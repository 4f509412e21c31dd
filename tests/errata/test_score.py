"""`errata score` as a user meets it: what it says, and what a killed one leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from errata.cli.main import run
from tests.pipelines.scoring.conftest import home as published
from tests.pipelines.scoring.conftest import write_some_captures, write_tables

DEADLINE_S = 120

home = published  # the fixture


@pytest.fixture(autouse=True)
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERRATA_HOME", str(home))
    monkeypatch.delenv("ERRATA_REDIS_URL", raising=False)


def kill_after_some_parts(arguments: Sequence[str], out: Path) -> int:
    """Run the command in a process of its own and kill it; how many parts are there then."""
    process = subprocess.Popen(
        [sys.executable, "-m", "errata", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + DEADLINE_S
    while len(list(out.glob("part-*.parquet"))) < 3:
        with suppress(subprocess.TimeoutExpired):  # leaves the processor to the job
            process.wait(0.01)
        assert process.poll() is None, "the job ended before it could be killed"
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    return len(list(out.glob("part-*.parquet")))


def resumed(arguments: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> pl.DataFrame:
    """Kill the job, run it again, and say what it then holds."""
    arguments = [*arguments, "--out", str(out), "--json"]
    there = kill_after_some_parts(arguments, out)
    assert json.loads((out / "_manifest.json").read_text())["summary"] is None
    assert run(arguments) == 0
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert 0 < summary["scored"] < summary["rows"]
    assert summary["parts"] > there
    assert "parts are there" in said.err
    return pl.read_parquet(out / "*.parquet")


def test_a_killed_run_over_users_ends_with_the_same_rows(tmp_path, capsys):
    data = write_tables(tmp_path / "data", users=300)
    arguments = ["score", "recommender", "--users", str(data / "asked.parquet"), "--k", "5"]
    arguments += ["--data", str(data)]
    whole = tmp_path / "whole"
    assert run([*arguments, "--out", str(whole)]) == 0
    capsys.readouterr()
    rows = resumed([*arguments, "--block-rows", "2"], tmp_path / "killed", capsys)
    expected = pl.read_parquet(whole / "*.parquet").sort("user_id")
    assert_frame_equal(rows.sort("user_id"), expected, abs_tol=1e-5)


def test_a_killed_run_over_captures_ends_with_the_same_rows(tmp_path, capsys):
    captures = write_some_captures(tmp_path / "captures", flows=100)
    arguments = ["score", "traffic", str(captures)]
    whole = tmp_path / "whole"
    assert run([*arguments, "--out", str(whole)]) == 0
    capsys.readouterr()
    rows = resumed([*arguments, "--block-rows", "2"], tmp_path / "killed", capsys)
    expected = pl.read_parquet(whole / "*.parquet").sort("capture", "flow")
    assert_frame_equal(rows.sort("capture", "flow"), expected, abs_tol=1e-5)
    for out in ("whole", "killed"):
        (reject,) = (tmp_path / out / "rejects.jsonl").read_text().splitlines()
        assert json.loads(reject)["file"].endswith("zz.pcap")


def test_histories_come_from_the_online_store_unless_tables_are_named(tmp_path, capsys):
    users = tmp_path / "users.csv"
    users.write_text("user_id\nann\nbob\n")
    arguments = ["score", "recommender", "--users", str(users), "--out", str(tmp_path / "out")]
    assert run([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2
    rows = pl.read_parquet(tmp_path / "out" / "*.parquet")
    assert rows["personalised"].to_list() == [False, False]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["recommender"], "either --users or --pairs"),
        (["recommender", "--users", "nowhere.parquet", "--data", "."], "no interactions.parquet"),
        (["recommender", "--users", "nowhere.parquet"], "nowhere.parquet does not exist"),
        (["recommender", "--users", "wrong.csv"], "has no column user_id; it has name"),
        (["recommender", "--users", "users.csv", "--type", "song"], "no item has type"),
        (["recommender", "--users", "broken.parquet"], "broken.parquet cannot be read"),
        (["traffic", "users.csv", "--engine", "ray", "--ray-address", "ray://h:1"], "on a node"),
        (["traffic", "nope://bucket/x.pcap"], "nope"),
        (["traffic", "nowhere.pcap"], "nowhere.pcap does not exist"),
        (["traffic", "users.csv"], "neither pcap nor pcapng"),
    ],
)
def test_mistakes_are_told_in_a_line(tmp_path, monkeypatch, capsys, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    Path("wrong.csv").write_text("name\nann\n")
    Path("users.csv").write_text("user_id\nann\n")
    Path("broken.parquet").write_bytes(b"PAR1 and no more")
    assert run(["score", *arguments, "--out", "out"]) == 2
    assert complaint in capsys.readouterr().err
