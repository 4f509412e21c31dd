"""A live interface that goes away and comes back, in a network namespace of its own."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from feature_store.registry import Registry
from services.classify.stream import ServedEdition
from tests.services.classify.conftest import publish

ALONE = ["unshare", "--map-root-user", "--net"]
WATCHES = """
import socket, subprocess, sys
from services.classify.service import ClassifyService
from services.classify.settings import ClassifySettings, Watch
from tests.patience import within

eventually = within(20)


def link(state):
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


def talk(port):
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        receiver.bind(("127.0.0.1", port))
        for _ in range(3):
            sender.sendto(b"question", ("127.0.0.1", port))


def say(what):
    print(what, service.watching, flush=True)


link("up")
service = ClassifyService(
    ClassifySettings(registry=sys.argv[1], refresh_s=0.05, watch=Watch(interface="lo"))
)
service.refresh()
try:
    for port in (5001, 5002):
        eventually(lambda: service.watching == "watching lo")
        talk(port)
        eventually(lambda: service._watcher.counts.flows == 1)
        link("down")
        eventually(lambda: service.watching.startswith("nothing is watched until it is back"))
        say(f"{service._watcher.counts.final} final")
        link("up")
finally:
    service.close()
"""


def test_an_interface_that_went_away_is_watched_again(
    tmp_path: Path, served: ServedEdition
) -> None:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("needs unshare and ip")
    if subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("may not make a network namespace")
    publish(Registry(tmp_path / "registry"), served.edition, tmp_path / "staging")
    watched = subprocess.run(
        [*ALONE, sys.executable, "-c", WATCHES, str(tmp_path / "registry")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert watched.returncode == 0, watched.stderr
    assert watched.stdout.splitlines() == 2 * [
        "1 final nothing is watched until it is back: lost lo: Network is down"
    ]
    assert watched.stderr.count("nothing is watched") == 2
