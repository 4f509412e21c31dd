"""Two processes under torchrun train the recommender as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from feature_store.editions import RecommenderEdition
from feature_store.interactions.dataset import Dataset
from models.recommender.losses import Targets, softmax_loss
from models.recommender.user_tower import Histories
from pipelines.recommender.batches import Hiding, epoch_batches, share_of

SETTINGS = {
    "threads": 1,
    "towers.dimension": 16,
    "towers.hidden": 16,
    "towers.epochs": 4,
    "towers.batch_size": 32,
    "towers.negatives": 40,
    "graph_network.dimension": 16,
    "graph_network.hidden": 16,
    "graph_network.epochs": 2,
    "graph_network.batch_size": 128,
    "graph_network.negatives": 32,
    "graph.regularisation": 20.0,
    "split.kind": "leave_last_out",
    "evaluation.baselines": "[popularity]",
    "new_users.enabled": "false",
}
TWO = (
    *("-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
    *("--nproc-per-node", "2"),
)


def train(data: Path, home: Path, *launcher: str) -> tuple[RecommenderEdition, dict[str, float]]:
    overrides = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
    subprocess.run(
        [sys.executable, *launcher, "-m", "errata", "train", "recommender", "--data", data,
         *overrides],
        env=os.environ | {"ERRATA_HOME": str(home), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )  # fmt: skip
    (version,) = (home / "registry" / "recommender" / "versions").iterdir()
    metrics = json.loads((version / "manifest.json").read_text())["metrics"]
    return RecommenderEdition.load(version, device="cpu"), metrics


def test_two_processes_end_with_the_model_of_one(dataset: Dataset, tmp_path: Path) -> None:
    dataset.write(tmp_path / "data")
    alone, alone_found = train(tmp_path / "data", tmp_path / "alone")
    together, together_found = train(tmp_path / "data", tmp_path / "together", *TWO)
    for name in ("recall@20", "ndcg@20", "hr@10"):
        assert together_found[name] == pytest.approx(alone_found[name], abs=0.05), name
    a, b = alone.item_vectors[:, :16], together.item_vectors[:, :16]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert float(np.median(cosine)) > 0.9


def test_shares_of_a_batch_have_its_loss_between_them() -> None:
    rng = np.random.default_rng(0)
    histories = sp.random(9, 20, density=0.4, random_state=1, dtype=np.float32, format="csr")
    features = rng.random((9, 3)).astype(np.float32)
    (batch,) = epoch_batches(
        histories, features, competing=np.arange(15),
        hiding=Hiding(0.4, 0.1, 0.2, 0.5), batch_size=9, rng=rng,
    )  # fmt: skip
    known, targets = batch
    users = torch.randn(9, 4, generator=torch.Generator().manual_seed(2))
    items = torch.randn(15, 4, generator=torch.Generator().manual_seed(3))

    def loss(rows: torch.Tensor, targets: Targets) -> float:
        return float(softmax_loss(users[rows], items, torch.zeros(15), torch.tensor(0.5), targets))

    everyone = torch.arange(len(known))
    parts = [everyone[0::2], everyone[1::2]]
    shares: list[tuple[Histories, Targets]] = [share_of(known, targets, rows) for rows in parts]
    together = sum(
        loss(rows, mine) * len(rows) / len(everyone)
        for rows, (_, mine) in zip(parts, shares, strict=True)
    )
    assert together == pytest.approx(loss(everyone, targets), rel=1e-5)
    assert sum(len(each.rows) for each, _ in shares) == len(known.rows)
    for rows, (each, _) in zip(parts, shares, strict=True):
        torch.testing.assert_close(each.features, known.features[rows])
