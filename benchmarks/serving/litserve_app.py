"""LitServe hosting the same three steps, written as its documentation shows.

    python -m benchmarks.serving.litserve_app --port PORT --registry DIR --redis URL

User history from Redis → user tower → FAISS. `--index flat` is the exact index that one writes
first; `--index ours` the tuned one of the same version.
"""

from __future__ import annotations

import argparse
from typing import Any

import faiss
import litserve
import numpy as np
import orjson
import redis
import torch

from feature_store.editions import RecommenderEdition
from feature_store.editions.recommender import MODEL_NAME
from feature_store.registry import Registry


class Recommender(litserve.LitAPI):  # type: ignore[misc]  # its base is untyped
    """The three steps."""

    def __init__(self, registry: str, redis_url: str, index: str) -> None:
        super().__init__(api_path="/v1/recommendations")
        self.registry, self.redis_url, self.index = registry, redis_url, index

    def setup(self, device: str) -> None:
        """Load the version."""
        del device
        torch.set_num_threads(1)
        faiss.omp_set_num_threads(1)
        directory, _ = Registry(self.registry).open(MODEL_NAME, "champion")
        self.edition = RecommenderEdition.load(directory, device="cpu")
        self.redis = redis.Redis.from_url(self.redis_url)
        self.flat = faiss.IndexFlatIP(self.edition.item_vectors.shape[1])
        self.flat.add(np.ascontiguousarray(self.edition.item_vectors))

    def predict(self, request: dict[str, Any]) -> dict[str, Any]:
        """History → user vector → nearest items."""
        edition, k = self.edition, request["k"]
        raw: Any = self.redis.lrange(f"errata:default:history:{request['user_id']}", 0, 199)
        rows = edition.catalogue.rows([orjson.loads(each)[0] for each in raw])
        history = edition.weigh([[(int(row), "click") for row in rows]])
        user = edition.user_vectors(history, np.zeros((1, 0), np.float32))
        search = self.flat.search if self.index == "flat" else edition.index.search
        cosines, found = search(user, edition.scoring.fetched(k) + len(rows))
        scores = cosines[0] / edition.scoring.temperature + edition.bias[found[0]]
        seen = set(rows.tolist())
        best = [place for place in np.argsort(-scores) if found[0][place] not in seen][:k]
        return {
            "items": [
                {
                    "item_id": edition.catalogue.item_ids[found[0][place]],
                    "item_type": edition.catalogue.item_types[found[0][place]],
                    "title": edition.items["title"][int(found[0][place])],
                    "score": float(scores[place]),
                }
                for place in best
            ]
        }


def main() -> None:
    """Serve on `--port`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--registry", required=True)
    parser.add_argument("--redis", required=True)
    parser.add_argument("--index", choices=["flat", "ours"], default="flat")
    arguments = parser.parse_args()
    api = Recommender(arguments.registry, arguments.redis, arguments.index)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=arguments.port, generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main()
