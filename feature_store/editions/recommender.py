"""An edition of the recommender: item vectors, their index, the user tower, and the item table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.content import ContentSpec
from feature_store.interactions.history import HistoryPolicy
from feature_store.interactions.user_features import UserFeatureSpec
from feature_store.vectors import VectorIndex
from models.recommender.user_tower import Histories, UserTower, contributions

MODEL_NAME = "recommender"
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

_CARD, _ITEMS, _INDEX = "edition.json", "items.parquet", "index.faiss"
_VECTORS, _TOWER = "item_vectors.safetensors", "user_tower.safetensors"


class Scoring(BaseModel):
    """score(u, i) = u·z_i / temperature + bias_i: the bias holds what popularity is worth.

    u and z_i are the towers' unit vectors, each with a closed-form tail where there is one:
    the user's is Σ_j w_j q_j / (Σ_j w_j)^length_power over the history.

    Attributes:
        temperature: of the softmax that the towers were trained with.
        length_power: of the tail.
        candidates: how many nearest vectors are fetched before the bias re-ranks them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(gt=0)
    length_power: float = Field(0.0, ge=0, le=1)
    candidates: int = Field(1_000, ge=1)


class _Card(BaseModel):
    """The small facts of an edition, as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dimension: int
    tail: int
    d_hidden: int
    scoring: Scoring
    history: HistoryPolicy
    content: ContentSpec
    user_features: UserFeatureSpec


@dataclass(frozen=True)
class RecommenderEdition:
    """Everything that turns a history into a ranked list, immutable.

    Attributes:
        items: the item table, in the order of the catalogue's rows.
        item_vectors: (n_items, d + r) float32: the item tower's unit vector and the tail.
        history_vectors: (n_items, d) float32, what an item says about who consumed it.
        history_tail: (n_items, r) float32, the same for the tail; r may be 0.
        bias: (n_items,) float32, added after retrieval.
        popularity: (n_items,) float32 interactions in training, for those of whom nothing is known.
        user_tower: the network.
        index: over `item_vectors`.
    """

    catalogue: Catalogue
    items: pl.DataFrame
    item_vectors: FloatArray
    history_vectors: FloatArray
    history_tail: FloatArray
    bias: FloatArray
    popularity: FloatArray
    user_tower: UserTower
    d_hidden: int
    index: VectorIndex
    scoring: Scoring
    history: HistoryPolicy
    content: ContentSpec
    user_features: UserFeatureSpec

    def save(self, directory: Path) -> None:
        """Write the edition's files into `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        card = _Card(
            dimension=self.history_vectors.shape[1],
            tail=self.history_tail.shape[1],
            d_hidden=self.d_hidden,
            scoring=self.scoring,
            history=self.history,
            content=self.content,
            user_features=self.user_features,
        )
        (directory / _CARD).write_text(card.model_dump_json(indent=2))
        self.items.write_parquet(directory / _ITEMS)
        arrays = {
            "item_vectors": self.item_vectors,
            "history_vectors": self.history_vectors,
            "history_tail": self.history_tail,
            "bias": self.bias,
            "popularity": self.popularity,
        }
        save_file(
            {name: np.ascontiguousarray(each) for name, each in arrays.items()},
            directory / _VECTORS,
        )
        save_tensors(self.user_tower.state_dict(), directory / _TOWER)
        self.index.save(directory / _INDEX)

    @classmethod
    def load(cls, directory: Path, *, device: str = "auto") -> RecommenderEdition:
        """Read what `save` wrote; `device` places the index.

        Raises:
            ValueError: the parts do not belong together.
        """
        card = _Card.model_validate_json((directory / _CARD).read_text())
        items = pl.read_parquet(directory / _ITEMS)
        catalogue = Catalogue(
            tuple(items["item_id"].to_list()), tuple(items["item_type"].to_list())
        )
        arrays = load_file(directory / _VECTORS)
        tower = UserTower(
            dimension=card.dimension,
            n_types=len(catalogue.types),
            n_features=card.user_features.dimension,
            d_hidden=card.d_hidden,
        )
        tower.load_state_dict(load_tensors(directory / _TOWER))
        index = VectorIndex.load(directory / _INDEX, device=device)
        if not len(index) == len(catalogue) == len(arrays["item_vectors"]):
            raise ValueError(
                f"index holds {len(index)} vectors, item table {len(catalogue)} rows, vector file "
                f"{len(arrays['item_vectors'])}: the parts are of different editions"
            )
        return cls(
            catalogue=catalogue,
            items=items,
            item_vectors=arrays["item_vectors"],
            history_vectors=arrays["history_vectors"],
            history_tail=arrays["history_tail"],
            bias=arrays["bias"],
            popularity=arrays["popularity"],
            user_tower=tower.eval(),
            d_hidden=card.d_hidden,
            index=index,
            scoring=card.scoring,
            history=card.history,
            content=card.content,
            user_features=card.user_features,
        )

    @cached_property
    def types(self) -> torch.Tensor:
        """(n_items,) int64 position of each item's type in `catalogue.types`."""
        return torch.from_numpy(
            np.searchsorted(self.catalogue.types, self.catalogue.item_types).astype(np.int64)
        )

    @cached_property
    def _history_tensor(self) -> torch.Tensor:
        return torch.from_numpy(self.history_vectors)

    def user_vectors(self, histories: sp.csr_matrix, features: FloatArray) -> FloatArray:
        """(B, d + r) user vectors: the user tower's unit vector and the tail.

        Args:
            histories: (B, n_items) float32 weights, from `HistoryPolicy`.
            features: (B, F) float32, from `UserFeatureSpec`.
        """
        with torch.inference_mode():
            users = self.user_tower(_flatten(histories, features), self._history_tensor, self.types)
        vectors: FloatArray = users.numpy()
        if self.history_tail.shape[1] == 0:
            return vectors
        return np.concatenate([vectors, self._user_tail(histories)], axis=1)

    def scores(self, histories: sp.csr_matrix, features: FloatArray) -> FloatArray:
        """(B, n_items) float32: every item's exact score, its popularity for an unknown user."""
        users = self.user_vectors(histories, features)
        scored: FloatArray = users @ self.item_vectors.T / self.scoring.temperature + self.bias
        scored[_unknown(histories, features)] = np.log1p(self.popularity)
        return scored

    def recommend(
        self,
        histories: sp.csr_matrix,
        features: FloatArray,
        *,
        k: int,
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[FloatArray, IntArray]:
        """The `k` best items by search and re-ranking: scores and rows (B, k).

        Where fewer than k are allowed the tail is -inf and -1. A user of whom nothing is known
        gets the most popular items that are allowed.
        """
        users = self.user_vectors(histories, features)
        fetched = min(max(self.scoring.candidates, 4 * k), len(self.catalogue))
        cosines, rows = self.index.search(users, fetched, allowed=allowed)
        scores = np.where(rows < 0, -np.inf, cosines / self.scoring.temperature + self.bias[rows])
        unknown = _unknown(histories, features)
        if unknown.any():
            popular = np.log1p(self.popularity)
            popular = popular if allowed is None else np.where(allowed, popular, -np.inf)
            best = np.argsort(-popular, kind="stable")[:fetched]
            rows[unknown] = np.where(np.isfinite(popular[best]), best, -1)
            scores[unknown] = popular[best]
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return (
            np.take_along_axis(scores, order, axis=1).astype(np.float32),
            np.take_along_axis(rows, order, axis=1),
        )

    def similar(
        self, row: int, *, k: int, allowed: NDArray[np.bool_] | None = None
    ) -> tuple[FloatArray, IntArray]:
        """The `k` items whose vectors are nearest to that of `row`: cosines and rows (k,)."""
        others = np.ones(len(self.catalogue), np.bool_) if allowed is None else allowed.copy()
        others[row] = False
        cosines, rows = self.index.search(self.item_vectors[row : row + 1], k, allowed=others)
        return cosines[0], rows[0]

    def reasons(
        self, history: sp.csr_matrix, rows: Sequence[int] | IntArray
    ) -> tuple[IntArray, FloatArray]:
        """Which history items brought `rows`.

        Returns:
            history rows (E,) and each one's part (len(rows), E) of u·z, as far as it is linear.
        """
        d = self.history_vectors.shape[1]
        flat = _flatten(history, np.zeros((1, self.user_features.dimension), np.float32))
        items = self.item_vectors[np.asarray(rows)]
        parts: FloatArray = contributions(
            flat, self._history_tensor, torch.from_numpy(items[:, :d])
        ).numpy()
        each = self.history_tail[history.indices] * history.data[:, None]
        length = max(float(history.data.sum()), 1e-12) ** self.scoring.length_power
        return history.indices.astype(np.int64), parts + items[:, d:] @ each.T / length

    def _user_tail(self, histories: sp.csr_matrix) -> FloatArray:
        lengths = np.maximum(np.asarray(histories.sum(1)), 1e-12)  # (B, 1)
        tail: FloatArray = (histories @ self.history_tail) / lengths**self.scoring.length_power
        return tail.astype(np.float32, copy=False)


def _unknown(histories: sp.csr_matrix, features: FloatArray) -> NDArray[np.bool_]:
    """(B,) of whom there is neither a history nor a feature."""
    nothing: NDArray[np.bool_] = (np.diff(histories.indptr) == 0) & ~features.any(axis=1)
    return nothing


def _flatten(histories: sp.csr_matrix, features: FloatArray) -> Histories:
    users = np.repeat(np.arange(histories.shape[0]), np.diff(histories.indptr))
    return Histories(
        rows=torch.from_numpy(histories.indices.astype(np.int64)),
        users=torch.from_numpy(users.astype(np.int64)),
        weights=torch.from_numpy(histories.data.astype(np.float32)),
        features=torch.from_numpy(features),
    )
