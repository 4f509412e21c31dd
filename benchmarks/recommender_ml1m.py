"""MovieLens-1M on the UltraGCN split: recall@20 and NDCG@20 beside tuned baselines.

    python -m benchmarks.recommender_ml1m [--quick] [--data DIR] [--seeds N] [--part validation]

DIR holds `train.txt` and `test.txt`, `user item item …` a line. No model has a vector per user:
each is given the user's training items at the time of the question.
"""

from __future__ import annotations

from benchmarks.harness import parse
from benchmarks.ranking import PART_OPTION, Grid, public_split
from pipelines.recommender.config import RecommenderConfig

CONFIG = RecommenderConfig.load(
    None,
    {
        "graph_network.enabled": False,
        "towers.dimension": 256,
        "towers.hidden": 0,
        "towers.listens": False,
        "towers.learning_rate_vectors": 3e-3,
        "linear.weight": 12.0,
        "linear.rank": 256,
    },
)
GRIDS: dict[str, Grid] = {
    "popularity": {},
    "itemknn": {"neighbours": (50, 100, 200, 400), "shrink": (0.0, 10.0, 50.0)},
    "ease": {"regularisation": (200.0, 400.0, 800.0, 1600.0)},
    "ials": {
        "factors": (64, 128),
        "confidence": (2.0, 5.0, 10.0),
        "regularisation": (1.0, 10.0, 50.0),
    },
}

if __name__ == "__main__":
    public_split(
        "recommender_ml1m",
        parse(__doc__, data="recsys/ml-1m", seeds=5, options=PART_OPTION),
        CONFIG,
        GRIDS,
        quick={"towers.epochs": 2, "towers.dimension": 64},
    )
