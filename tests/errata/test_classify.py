"""`errata classify` as a user meets it."""
# ruff: noqa: F401, F811 (fixtures of another room)

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from errata.cli.main import run
from feature_store.registry import Registry
from feature_store.traffic.capture import InterfaceUnavailableError, open_interface
from tests.services.classify.conftest import (
    mixed,
    packets_of,
    publish,
    served,
    write_mixed,
)
from tests.services.conftest import traffic, trained


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path))
    monkeypatch.delenv("ERRATA_REDIS_URL", raising=False)
    return tmp_path


@pytest.fixture
def version(home: Path, served) -> str:
    return publish(Registry(home / "registry"), served.edition, home / "staging")


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_capture_is_classified(version: str, mixed: Path, capfdbinary) -> None:
    assert run(["classify", str(mixed), "--json"]) == 0
    *verdicts, counts = lines_of(capfdbinary.readouterr().out.decode())
    assert {v["model_version"] for v in verdicts} == {version}
    assert counts["flows"] == sum(v["final"] for v in verdicts) == 36
    assert counts["evicted"] == 0
    assert counts["packets"] == len(packets_of(mixed))
    assert sum(counts["labels"].values()) == 36
    assert set(counts["shed"].values()) == {0}
    by_port = {v["source_port"] // 1000: v["label"] for v in verdicts if v["final"]}
    assert by_port == {20: "video", 21: "chat", 22: "lookup"}

    assert run(["classify", str(mixed), "--json", "--final-only"]) == 0
    *final, _ = lines_of(capfdbinary.readouterr().out.decode())
    assert all(v["final"] for v in final)
    assert len(final) == 36


def test_people_get_a_table(version: str, mixed: Path, capsys) -> None:
    assert run(["classify", str(mixed), "--replay", "1000"]) == 0
    shown = capsys.readouterr()
    assert "video" in shown.out
    assert "flows/s" in shown.out
    assert "0.0 flows/s" not in shown.out
    assert "36 flows" in shown.err


def test_verdicts_go_to_a_redis_stream(
    version: str,
    mixed: Path,
    redis_server,
    redis_client,
    monkeypatch,
    capfd,
) -> None:
    monkeypatch.setenv("ERRATA_REDIS_URL", redis_server.url)
    command = ["classify", str(mixed), "--json", "--final-only", "--redis-stream", "seen"]
    assert run(command) == 0
    assert redis_client.xlen("seen") == 36
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["redis_stream_dropped"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nosuch.pcap"], "there is no file nosuch.pcap: name a capture"),
        (["nosuch.pcap", "--follow"], "does not wait for the file itself"),
        (["."], "`errata score traffic . --out FOLDER`"),
        ([__file__], "is not a capture"),
        ([], "- for standard input, --interface NAME or --from-stream STREAM"),
        (["x.pcap", "--interface", "lo"], "x.pcap and the interface lo: name one"),
        (["--interface", "lo", "--follow"], "not for an interface"),
        (["x.pcap", "--follow", "--replay", "1"], "leave out --replay"),
        (["--interface", "nosuch0"], "nosuch0"),
    ],
)
def test_wrong_use_is_one_line_and_exit_2(
    home: Path, capsys, monkeypatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(home)
    (home / "x.pcap").touch()
    assert run(["classify", *arguments]) == 2
    shown = capsys.readouterr().err
    assert said in shown
    assert "Errno" not in shown
    assert len(shown.strip().splitlines()) == 1


def test_no_model_says_how_to_make_one(home: Path, mixed: Path, capsys) -> None:
    assert run(["classify", str(mixed)]) == 1
    assert "errata train traffic" in capsys.readouterr().err


# PR_CAPBSET_DROP of CAP_NET_RAW: even root does not get it back at the next exec.
WITHOUT_CAPABILITY = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 13); os.execv(sys.executable, "
    "[sys.executable, '-m', 'errata', *sys.argv[1:]])"
)


@pytest.mark.parametrize("command", ["classify", "serve"])
def test_an_interface_without_permission_names_the_capability(home: Path, command: str) -> None:
    interpreter = home / "bin" / "python"
    interpreter.parent.mkdir()
    interpreter.symlink_to(sys.executable)
    done = subprocess.run(
        [str(interpreter), "-c", WITHOUT_CAPABILITY, command, "--interface", "lo"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert done.returncode == 2
    assert "CAP_NET_RAW" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    (advised,) = re.findall(r"setcap cap_net_raw\+ep ([^`]+)`", done.stderr)
    # setcap takes a file alone, no link to one.
    assert Path(advised) == Path(sys.executable).resolve()
    assert not Path(advised).is_symlink()


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "errata", "classify", "--json", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"ERRATA_HOME": str(home)},
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> str:
    """What it still had to say."""
    assert process.stdout is not None
    assert process.stderr is not None
    rest, complaints = process.stdout.read(), process.stderr.read()
    assert process.wait(timeout=60) == 0, complaints
    process.stdout.close()
    process.stderr.close()
    return rest


def test_a_growing_file_is_followed_until_interrupted(
    version: str,
    home: Path,
    mixed: Path,
) -> None:
    whole = mixed.read_bytes()
    growing = home / "growing.pcap"
    growing.write_bytes(whole[: len(whole) // 2])
    process = start(home, str(growing), "--follow")
    assert process.stdout is not None
    first = json.loads(process.stdout.readline())
    assert first["final"] is False
    with growing.open("ab") as file:
        file.write(whole[len(whole) // 2 :])
    finals = []
    for line in process.stdout:
        verdict = json.loads(line)
        finals.append(verdict.get("reason") == "packet_limit")
        if sum(finals) == 12:  # the video flows are long enough for their last packet
            break
    process.send_signal(signal.SIGINT)
    rest = ended(process)
    *_, counts = lines_of(rest)
    assert counts["flows"] == 36
    assert counts["packets"] == len(packets_of(mixed))


def test_what_passes_the_loopback_is_classified(version: str, home: Path) -> None:
    try:
        open_interface("lo").close()
    except InterfaceUnavailableError as reason:
        pytest.skip(str(reason))
    process = start(home, "--interface", "lo")
    assert process.stdout is not None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        stop = threading.Event()

        def ask() -> None:
            while not stop.wait(0.02):
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    client.sendto(b"q" * 40, ("127.0.0.1", port))
                    _, peer = server.recvfrom(100)
                    server.sendto(b"a" * 90, peer)
                    client.recv(100)

        asker = threading.Thread(target=ask)
        asker.start()
        try:
            deadline = time.monotonic() + 60
            heard = []
            while len(heard) < 10 and time.monotonic() < deadline:
                verdict = json.loads(process.stdout.readline())
                if verdict["destination_port"] == port:
                    heard.append(verdict)
        finally:
            stop.set()
            asker.join()
    process.send_signal(signal.SIGTERM)
    rest = ended(process)
    assert len(heard) == 10
    assert {v["protocol"] for v in heard} == {"udp"}
    *_, counts = lines_of(rest)
    assert sum(counts["verdicts"].values()) >= 10
