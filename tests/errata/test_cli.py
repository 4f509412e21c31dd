import gzip
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from errata import __version__
from errata.cli.main import run
from feature_store.offline import FeedbackLog, FeedbackRecord


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ERRATA_REDIS_URL", raising=False)
    return tmp_path / "home"


def write_tables(directory: Path, *, bad_rows: int = 0) -> Path:
    directory.mkdir()
    rows = [f"u{n % 12},i{(n * n + 3 * n) % 29},{1_700_000_000 + n * 60}" for n in range(100)]
    rows[40:40] = [f"u1,,{n}" for n in range(bad_rows)]
    (directory / "interactions.csv").write_text(
        "user_id,item_id,timestamp\n" + "\n".join(rows) + "\n"
    )
    (directory / "items.csv").write_text(
        "item_id,item_type,title,genre[]\n"
        + "".join(f"i{n},film,title {n},{'war|sea' if n % 2 else 'love'}\n" for n in range(29))
    )
    return directory


QUICK = [
    *("--set", "towers.epochs=1", "--set", "towers.dimension=8", "--set", "threads=1"),
    *("--set", "graph_network.epochs=1", "--set", "graph_network.dimension=8"),
    *("--set", "evaluation.baselines=[popularity, ease]"),
]


def test_import_reads_counts_and_writes(tmp_path, capsys):
    source, destination = write_tables(tmp_path / "raw"), tmp_path / "data"
    assert run(["import", str(source), str(destination), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["interactions"], summary["users"], summary["items"]) == (100, 12, 29)
    assert (destination / "interactions.parquet").exists()


def test_rejects_are_shown_with_line_numbers_and_kept(tmp_path, capsys):
    source = write_tables(tmp_path / "raw", bad_rows=2)
    arguments = ["import", str(source), str(tmp_path / "data")]
    assert run([*arguments, "--max-reject-share", "0.1"]) == 0
    shown = capsys.readouterr().err
    assert "2 of 131 rows" in shown
    assert "interactions.csv:42" in shown
    kept = (tmp_path / "data" / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in kept] == [42, 43]


def test_too_many_rejects_stop_the_import_and_say_how_to_go_on(tmp_path, capsys):
    source = write_tables(tmp_path / "raw", bad_rows=30)
    assert run(["import", str(source), str(tmp_path / "data")]) == 2
    assert "--max-reject-share" in capsys.readouterr().err
    assert not (tmp_path / "data" / "interactions.parquet").exists()


def test_train_publishes_promotes_and_rolls_back(tmp_path, capsys):
    source = write_tables(tmp_path / "raw")
    train = ["train", "recommender", "--data", str(source), *QUICK, "--promote", "--json"]
    versions = []
    for seed, ablated in (("0", []), ("1", ["--ablate", "towers_only"])):
        assert run([*train, "--set", f"seed={seed}", *ablated]) == 0
        versions.append(json.loads(capsys.readouterr().out)["version"])
    assert run(["registry", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each["version"] for each in listed] == versions
    assert [each["aliases"] for each in listed] == [[], ["champion"]]
    assert [each["ablations"] for each in listed] == [[], ["towers_only"]]
    assert run(["registry", "list"]) == 0
    assert "towers_only" in capsys.readouterr().out
    manifest = tmp_path / f"home/registry/recommender/versions/{versions[0]}/manifest.json"
    assert "item_map.safetensors" in json.loads(manifest.read_text())["files"]
    assert run(["registry", "rollback"]) == 0
    assert versions[0] in capsys.readouterr().out
    assert run(["registry", "verify"]) == 0
    assert run(["registry", "promote", versions[1]]) == 0
    capsys.readouterr()
    assert run(["registry", "show", "champion"]) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["config"]["seed"] == 1
    assert manifest["ablations"] == ["towers_only"]
    assert {"index.faiss", "report.html", "metrics.json"} <= set(manifest["files"])


def test_what_was_collected_online_is_in_the_next_training(tmp_path, home, capsys):
    source = write_tables(tmp_path / "raw")
    log = FeedbackLog(home / "offline" / "feedback")
    log.append(FeedbackRecord("f", "new-user", "i3", "click", 1.0, 1_700_000_000_000, None, None))
    train = ["train", "recommender", "--data", str(source), *QUICK, "--json"]
    assert run(train) == 0
    assert "100 interactions of 12 users" in capsys.readouterr().err
    assert run([*train, "--with-feedback"]) == 0
    assert "101 interactions of 13 users" in capsys.readouterr().err


def test_evaluate_runs_both_protocols(tmp_path, capsys):
    source = write_tables(tmp_path / "raw")
    assert run(["evaluate", "recommender", "--data", str(source), *QUICK, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"temporal", "leave_last_out"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "recommender", "--data", "/does/not/exist"], "/does/not/exist"),
        (["train", "recommender"], "--data"),
        (["train", "recommender", "--data", ".", "--set", "towers.epochs"], "KEY=VALUE"),
        (
            ["train", "recommender", "--data", ".", "--set", "towers.epoch=3"],
            "did you mean towers.epochs?",
        ),
        (["train", "recommender", "--data", ".", "--set", "speed=3"], "there are seed, threads,"),
        (["train", "recommender", "--data", ".", "--set", "towers=3"], "one of towers.dimension,"),
        (["train", "recommender", "--data", ".", "--set", "towers.epochs=[}"], "YAML"),
        (["train", "recommender", "--data", ".", "--set", "evaluation.cutoffs=[0]"], "cutoffs"),
        (["train", "recommender", "--data", ".", "--set", "linear.weight=.inf"], "linear.weight"),
        (["train", "recommender", "--data", ".", "--set", "threads=100000"], "threads"),
        (["import", "nowhere", "data"], "nowhere"),
        (["serve", "--port", "0"], "port"),
        (
            ["serve", "--set", "foo=1"],
            "no setting 'foo': there are model, catalogues, refresh_s, limits, admin_port",
        ),
        (["serve", "--set", "deadline_ms=9"], "did you mean limits.deadline_ms?"),
        (["serve", "--set", "limits.deadline=9"], "did you mean limits.deadline_ms?"),
        (
            ["serve", "--set", "catalogues.films.rules.diversty=.1"],
            "did you mean catalogues.films.rules.diversity?",
        ),
        (["serve", "--set", "diversity=.1"], "did you mean catalogues.NAME.rules.diversity?"),
        (["serve", "--set", "limits.max_queue=0"], "limits.max_queue: input should be greater"),
        (
            ["serve", "--set", "catalogues.films.challenger_share=.1"],
            "error: catalogues.films: challenger_share without a challenger alias",
        ),
        (["registry", "list", "--model", "nix"], "--model is one of recommender, traffic"),
        (["registry", "rollback", "--model", "nix"], "no model 'nix'"),
        (["no-such-command"], "no-such-command"),
    ],
)
def test_a_users_mistake_is_exit_2_and_one_clear_line(arguments, says, capsys):
    assert run(arguments) == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("below", [".", "within"])
def test_an_import_into_a_file_says_what_to_do(tmp_path, capsys, below):
    source = write_tables(tmp_path / "raw")
    taken = source / "items.csv"
    assert run(["import", str(source), str(taken / below)]) == 2
    shown = capsys.readouterr().err
    assert f"{taken} is there already and is no folder" in shown
    assert "Name another one" in shown


def test_a_missing_version_is_exit_1_and_says_how_to_make_one(capsys):
    assert run(["registry", "promote", "v9"]) == 1
    assert "errata train" in capsys.readouterr().err


def test_version_and_help_teach(capsys):
    assert run(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    for arguments in (["--help"], ["train", "recommender", "--help"], ["flows", "--help"]):
        assert run(arguments) == 0
        assert "Usage" in capsys.readouterr().out


def test_doctor_finds_a_working_machine(monkeypatch, tmp_path, capsys):
    (tmp_path / "user.key").write_text("k" * 32)
    monkeypatch.setenv("ERRATA_USER_KEY", str(tmp_path / "user.key"))
    assert run(["doctor", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert found["Redis"]["ok"]
    assert found["FAISS"]["ok"]
    assert found["user ids"]["found"].startswith("hashed by the key ")


def test_doctor_says_what_to_do_about_a_dead_redis(monkeypatch, capsys):
    monkeypatch.setenv("ERRATA_REDIS_URL", "redis://127.0.0.1:1")
    assert run(["doctor"]) == 1
    assert "ERRATA_REDIS_URL" in capsys.readouterr().out


def test_a_command_that_needs_redis_fails_at_once_where_the_named_one_is_dead(monkeypatch, capsys):
    monkeypatch.setenv("ERRATA_REDIS_URL", "redis://127.0.0.1:1")
    assert run(["forget-user", "u1"]) == 1
    assert "127.0.0.1:1" in capsys.readouterr().err


def test_a_redis_that_is_no_url_of_one_is_named(monkeypatch, capsys):
    monkeypatch.setenv("ERRATA_REDIS_URL", "http://user:secret@redis")
    assert run(["forget-user", "u1"]) == 2
    said = capsys.readouterr().err
    assert "ERRATA_REDIS_URL=http://user:***@redis" in said
    assert "unix://" in said


def test_a_port_that_is_taken_is_said_with_what_to_do(tmp_path_factory):
    home = str(tmp_path_factory.mktemp("h"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "errata", "serve", "--port", str(port)],
            env=os.environ | {"ERRATA_HOME": home, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use; name" in done.stderr
    assert "--port" in done.stderr
    assert "serving" not in done.stderr


def capture(path: Path) -> Path:
    """One UDP packet in a little-endian pcap."""
    udp = struct.pack(">HHHH", 1234, 53, 12, 0) + b"ping"
    ip = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, b"\x0a\0\0\x01", b"\x0a\0\0\x02"
    )
    frame = b"\x02" * 12 + b"\x08\x00" + ip + udp
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    packet = struct.pack("<IIII", 1_700_000_000, 0, len(frame), len(frame)) + frame
    path.write_bytes(gzip.compress(header + packet))
    return path


def test_flows_prints_flows_and_then_counts(tmp_path, capsys):
    assert run(["flows", str(capture(tmp_path / "one.pcap.gz")), "--json"]) == 0
    flow, totals = map(json.loads, capsys.readouterr().out.splitlines())
    assert flow["protocol"].lower() == "udp"
    assert totals["packets"] == 1
    assert totals["flows"] == 1


@pytest.mark.parametrize(
    ("named", "said"),
    [
        (["text.pcap"], "is not a capture"),
        (["nosuch.pcap"], "there is no file nosuch.pcap"),
        (["."], "`errata score traffic . --out FOLDER`"),
        ([".", "--publish", "flows"], "`errata score traffic . --out FOLDER`"),
        ([], "name a capture file, or - for standard input"),
    ],
)
def test_flows_of_no_capture_is_exit_2_with_one_line(tmp_path, monkeypatch, capsys, named, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.pcap").write_text("hello")
    assert run(["flows", *named]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Errno" not in shown
    assert len(shown.splitlines()) == 1
