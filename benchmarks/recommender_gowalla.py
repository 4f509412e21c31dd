"""Gowalla on LightGCN's split: recall@20 and NDCG@20 beside tuned baselines.

    python -m benchmarks.recommender_gowalla [--quick] [--data DIR] [--seeds N] [--ease]

DIR holds `train.txt` and `test.txt`, `user item item …` a line. No model has a vector per user.
EASE inverts a 40,981 × 40,981 matrix, which needs 7 GB and some ten minutes: `--ease` adds it.
"""

from __future__ import annotations

from benchmarks.harness import parse
from benchmarks.ranking import Grid, public_split
from pipelines.recommender.config import RecommenderConfig

CONFIG = RecommenderConfig.load(
    None,
    {
        "graph_network.enabled": False,
        "graph.strength": "cosine",
        "graph.top_k": 10,
        "towers.dimension": 256,
        "towers.hidden": 0,
        "towers.listens": False,
        "towers.unit_history": True,
        "towers.epochs": 8,
        "towers.learning_rate_vectors": 4e-3,
        "towers.temperature": 0.08,
        "linear.kind": "spectral",
        "linear.rank": 256,
        "linear.weight": 100.0,
    },
)
GRIDS: dict[str, Grid] = {
    "popularity": {},
    "itemknn": {"neighbours": (100, 400), "shrink": (0.0, 10.0)},
    "ials": {"factors": (64,), "confidence": (3.0, 10.0), "regularisation": (1.0, 10.0)},
}

if __name__ == "__main__":
    arguments = parse(
        __doc__, data="recsys/gowalla", seeds=3, options={"--ease": {"action": "store_true"}}
    )
    if arguments.extra.ease:
        GRIDS["ease"] = {"regularisation": (200.0,)}
    public_split(
        "recommender_gowalla",
        arguments,
        CONFIG,
        GRIDS,
        quick={"towers.epochs": 1, "towers.dimension": 32},
    )
