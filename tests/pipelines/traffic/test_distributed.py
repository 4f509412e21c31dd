"""Two processes under torchrun train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from pipelines.distributed import ALONE, Group
from pipelines.traffic.pipeline import METRICS

from .conftest import write_captures

SETTINGS = {
    "threads": 1,
    "network.packets": 8,
    "network.encoder.d_model": 24,
    "network.encoder.layers": 1,
    "network.encoder.drop_path": 0.0,
    "network.epochs": 3,
    "pretraining.enabled": "false",
    "tree.rounds": 5,
    "evaluation.resamples": 10,
    "evaluation.baselines": "[majority]",
}


def train(data: Path, home: Path, *launcher: str) -> tuple[dict[str, np.ndarray], float, int]:
    """Weights and macro F1 of the published version, and how many there are."""
    overrides = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    subprocess.run(
        [sys.executable, *launcher, "-m", "errata", "train", "traffic", "--data", data, *overrides],
        env=os.environ | {"ERRATA_HOME": str(home), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    versions = list((home / "registry" / "traffic" / "versions").iterdir())
    scores = json.loads((versions[0] / METRICS).read_text())
    found = json.loads((versions[0] / "manifest.json").read_text())["metrics"]["macro_f1"]
    assert scores
    return load_file(versions[0] / "network.safetensors"), found, len(versions)


def test_two_processes_end_with_the_model_of_one(tmp_path: Path) -> None:
    data = write_captures(tmp_path / "captures", recordings=4, flows=10)
    two = (
        *("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
        *("--nproc-per-node", "2"),
    )
    alone, alone_f1, _ = train(data, tmp_path / "alone")
    together, together_f1, versions = train(data, tmp_path / "together", *two)
    assert versions == 1  # the second process publishes nothing
    assert together_f1 == pytest.approx(alone_f1, abs=0.05)
    for name, weight in alone.items():
        np.testing.assert_allclose(together[name], weight, atol=0.02, err_msg=name)


def test_shares_are_disjoint_and_complete() -> None:
    shares = [Group(rank, 3).share(10).tolist() for rank in range(3)]
    assert sorted(row for share in shares for row in share) == list(range(10))
    assert Group(2, 3).share(2).tolist() == [0, 1]  # too few to share: all take all
    assert Group(1, 4).threads(2) == 1


def test_alone_nothing_changes() -> None:
    layer = nn.Linear(2, 1)
    loss = ALONE.of_whole(layer(torch.ones(3, 2)).mean(), 3)
    loss.backward()
    before = layer.weight.grad.clone()
    ALONE.sum_gradients(layer)
    assert torch.equal(layer.weight.grad, before)
