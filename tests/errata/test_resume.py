"""A training that is killed goes on where it stopped; Ctrl-C ends one at once, and says so."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

EPOCHS = 25
DEADLINE_S = 120
AT_ONCE_S = 10  # half a second where the machine is idle

# What a matrix inversion looks like to the interpreter: minutes without an instruction of its own.
BLOCKED = """
import hashlib, os, sys
import typer
from errata.cli.interrupt import ends_promptly
try:
    with ends_promptly("interrupted: try again"):
        print("begun", flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
except typer.Abort as interrupted:  # it had not begun
    os.write(2, str(interrupted).encode())
    sys.exit(130)
"""


def write_interactions(directory: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = 8_000
    pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in rng.integers(0, 1_000, rows)],
            "item_id": [f"i{n}" for n in rng.zipf(1.3, rows) % 500],
        }
    ).write_csv(directory / "interactions.csv")
    return directory


def command(data: Path, *, epochs: int = EPOCHS) -> list[str]:
    settings = {
        "towers.epochs": epochs,
        "towers.dimension": 16,
        "towers.batch_size": 128,
        "threads": 1,
        "graph_network.enabled": "false",
        "split.kind": "leave_last_out",
        "evaluation.baselines": "[popularity]",
    }
    overrides = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return [
        *(sys.executable, "-m", "errata", "train", "recommender", "--data", str(data)),
        *overrides,
    ]


def vectors(home: Path) -> np.ndarray:
    (path,) = home.glob("registry/recommender/versions/*/item_vectors.safetensors")
    return load_file(path)["item_vectors"]


def finished_epochs(home: Path) -> int:
    for path in home.glob("runs/*/checkpoints/towers.safetensors"):
        with safe_open(path, framework="np") as file:
            return int(file.metadata()["epoch"])
    return 0


def test_a_killed_run_resumes_and_ends_with_the_same_model(tmp_path):
    data = write_interactions(tmp_path)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(
        command(data), env=os.environ | {"ERRATA_HOME": str(whole)}, check=True, capture_output=True
    )

    environment = os.environ | {"ERRATA_HOME": str(killed)}
    process = subprocess.Popen(
        command(data), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + DEADLINE_S
    while finished_epochs(killed) < 2:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 2 <= finished_epochs(killed) < EPOCHS
    assert not list(killed.glob("registry/**/manifest.json"))

    subprocess.run(command(data), env=environment, check=True, capture_output=True)
    np.testing.assert_array_equal(vectors(killed), vectors(whole))
    assert finished_epochs(killed) == 0  # the checkpoints are gone: the version is what is kept


def interrupted(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Send Ctrl-C: exit code and what was said on standard error."""
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=AT_ONCE_S)
    return process.returncode, said


def test_training_stops_and_says_how_to_go_on(tmp_path: Path):
    home = tmp_path / "home"
    process = subprocess.Popen(
        command(write_interactions(tmp_path), epochs=100_000),
        env=os.environ | {"ERRATA_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + DEADLINE_S
    while finished_epochs(home) < 1:
        assert process.poll() is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
    code, said = interrupted(process)
    assert code == 130
    assert "the same command goes on" in said
    assert "Traceback" not in said


@pytest.mark.alone
def test_a_computation_that_python_cannot_interrupt_is_ended():
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    code, said = interrupted(process)
    assert (code, said.strip()) == (130, "interrupted: try again")
