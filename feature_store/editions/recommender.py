"""An edition of the recommender: item vectors, their index, the user tower, and the item table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from feature_store.editions.item_map import ItemMap
from feature_store.editions.mapped import map_arrays
from feature_store.editions.neighbour_lists import NeighbourLists
from feature_store.editions.popularity_share import blend
from feature_store.editions.retrieval import Retrieval
from feature_store.editions.scoring import Scoring
from feature_store.editions.small_batches import SmallBatchTower
from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.content import ContentSpec
from feature_store.interactions.history import HistoryPolicy
from feature_store.interactions.history_rows import HistoryRows, SparseRows, as_matrix
from feature_store.interactions.user_features import UserFeatureSpec
from feature_store.registry.names import RECOMMENDER
from feature_store.vectors import RowFilter, SideIndex, VectorIndex
from models.recommender.user_tower import Histories, UserTower, contributions

MODEL_NAME = RECOMMENDER
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

# Up to so many users the dispatch of tensor operations costs more than their arithmetic.
SMALL_BATCH = 64

_CARD, _ITEMS, _INDEX = "edition.json", "items.parquet", "index.faiss"
_VECTORS, _TOWER = "item_vectors.safetensors", "user_tower.safetensors"
_MAP, _LISTS = "item_map.safetensors", "neighbour_lists.safetensors"


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
        bias: (n_items,) float32, what popularity is worth.
        popularity: (n_items,) float32 users in training, the recent ones counting more where that
            served new users better; what lists for those of whom little is known lean on.
        user_tower: the network.
        index: over `item_vectors`, and over what was added since (`with_side`).
        item_map: the item space as a flat picture; None where none was drawn.
        lists: exact item-to-item weights beside the vectors; None has none.
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
    index: VectorIndex | SideIndex
    scoring: Scoring
    history: HistoryPolicy
    content: ContentSpec
    user_features: UserFeatureSpec
    item_map: ItemMap | None = None
    lists: NeighbourLists | None = None

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
        base = self.index.base if isinstance(self.index, SideIndex) else self.index
        base.save(directory / _INDEX)
        if self.item_map is not None:
            self.item_map.save(directory / _MAP)
        if self.lists is not None:
            self.lists.save(directory / _LISTS)

    @classmethod
    def load(
        cls, directory: Path, *, device: str = "auto", like: RecommenderEdition | None = None
    ) -> RecommenderEdition:
        """Map what `save` wrote into memory; `device` places the index.

        Vectors and index are shared by the processes that load the same files. The item table is
        that of `like` where it is the same: two versions of one catalogue hold it once, and the
        second loads in half the time.

        Raises:
            ValueError: the parts do not belong together.
        """
        card = _Card.model_validate_json((directory / _CARD).read_text())
        items = pl.read_parquet(directory / _ITEMS)
        if like is not None and not items.equals(like.items):
            like = None
        if like is not None:
            items, catalogue = like.items, like.catalogue
        else:
            catalogue = Catalogue(
                tuple(items["item_id"].to_list()), tuple(items["item_type"].to_list())
            )
        arrays = map_arrays(directory / _VECTORS)
        tower = UserTower(
            dimension=card.dimension,
            n_types=len(catalogue.types),
            n_features=card.user_features.dimension,
            d_hidden=card.d_hidden,
        )
        tower.load_state_dict(load_tensors(directory / _TOWER))
        index = VectorIndex.load(directory / _INDEX, matrix=arrays["item_vectors"], device=device)
        if len(index) != len(catalogue):
            raise ValueError(
                f"index holds {len(index)} vectors, item table {len(catalogue)} rows: the parts "
                "are of different editions"
            )
        edition = cls(
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
            item_map=ItemMap.load(directory / _MAP, arrays["item_vectors"]),
            lists=NeighbourLists.load(directory / _LISTS, n_items=len(catalogue)),
        )
        if like is not None:
            edition._share_types(like)
        return edition

    def _share_types(self, of: RecommenderEdition) -> None:
        """Take `types` of an edition of the same items: it costs a pass over a million strings."""
        self.__dict__["types"] = of.types

    def with_map(self, *, seed: int = 0) -> RecommenderEdition:
        """This edition with its item space drawn; seconds for thousands of items."""
        return replace(self, item_map=ItemMap.of(self.item_vectors, self.popularity, seed=seed))

    def with_lists_weighed(self, weight: float) -> RecommenderEdition:
        """This edition with its lists' scores times `weight`."""
        return replace(self, lists=self.lists and self.lists.weighed(weight))

    @cached_property
    def types(self) -> torch.Tensor:
        """(n_items,) int64 position of each item's type in `catalogue.types`."""
        return torch.from_numpy(
            np.searchsorted(self.catalogue.types, self.catalogue.item_types).astype(np.int64)
        )

    @cached_property
    def _type_of(self) -> IntArray:
        return self.types.numpy()

    @cached_property
    def _small_batches(self) -> SmallBatchTower:
        return SmallBatchTower.of(self.user_tower)

    @cached_property
    def _history_tensor(self) -> torch.Tensor:
        return torch.from_numpy(self.history_vectors)

    def user_vectors(self, histories: SparseRows, features: FloatArray) -> FloatArray:
        """(B, d + r) user vectors: the user tower's unit vector and the tail.

        Args:
            histories: (B, n_items) float32 weights, from `HistoryPolicy`.
            features: (B, F) float32, from `UserFeatureSpec`.
        """
        if histories.shape[0] <= SMALL_BATCH:
            vectors = self._small_batches(histories, features, self.history_vectors, self._type_of)
        else:
            with torch.inference_mode():
                flat = _flatten(histories, features)
                vectors = self.user_tower(flat, self._history_tensor, self.types).numpy()
        if self.history_tail.shape[1] == 0:
            return vectors
        return np.concatenate([vectors, self._user_tail(histories)], axis=1)

    def popularity_share(self, histories: SparseRows, features: FloatArray) -> FloatArray:
        """(B,) float32 in [0, 1]: how far each user's list leans on popularity."""
        return self.scoring.popularity_share.of(histories, features)

    def scores(self, histories: SparseRows, features: FloatArray) -> FloatArray:
        """(B, n_items) float32: every item's exact score."""
        users = self.user_vectors(histories, features)
        # In place, and the small factor scaled: the result is large.
        users = np.divide(users, self.scoring.temperature, dtype=np.float32)
        scored: FloatArray = users @ self.item_vectors.T
        scored += self.bias
        if self.lists is not None:
            self.lists.add_to(scored, histories)
        shares = self.popularity_share(histories, features)
        for user in np.flatnonzero(shares).tolist():
            scored[user] = blend(scored[user], self.retrieval.log_popularity, shares[user])
        return scored

    def pair_scores(
        self,
        users: FloatArray,
        shares: FloatArray,
        histories: SparseRows,
        *,
        who: IntArray,
        rows: IntArray,
    ) -> FloatArray:
        """(R,) float32: the exact score of each of R pairs of a user and an item.

        Args:
            users: (B, d + r) from `user_vectors`. shares: (B,) from `popularity_share`.
            histories: (B, n_items) that both are of.
            who: (R,) places of the pairs' users. rows: (R,) of their items.
        """
        scored = np.einsum("rd,rd->r", users[who], self.item_vectors[rows])
        scored = scored / self.scoring.temperature + self.bias[rows]
        if self.lists is not None:
            scored += self.lists.of_pairs(histories, who, rows)
        return blend(scored, self.retrieval.log_popularity[rows], shares[who])

    @cached_property
    def retrieval(self) -> Retrieval:
        """What finds the best items for `user_vectors` and their `popularity_share`."""
        return Retrieval(
            item_vectors=self.item_vectors,
            bias=self.bias,
            popularity=self.popularity,
            scoring=self.scoring,
            index=self.index,
            lists=self.lists,
        )

    def recommend(
        self,
        histories: SparseRows,
        features: FloatArray,
        *,
        k: int,
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[FloatArray, IntArray]:
        """The `k` best items by search and re-ranking: scores and rows (B, k).

        Where fewer than k are allowed the tail is -inf and -1.
        """
        scores, rows = self.retrieval.retrieve(
            self.user_vectors(histories, features),
            self.popularity_share(histories, features),
            histories,
            n=self.retrieval.fetched(k),
            k=k,
            allowed=allowed,
        )
        return scores[:, :k], rows[:, :k]

    def with_side(
        self, *, added: FloatArray, bias: FloatArray, withdrawn: IntArray
    ) -> RecommenderEdition:
        """This edition with rows added behind its last, and rows withdrawn; the base is shared.

        Args:
            added: (m, d + r) item vectors.
            bias: (m,) of the added items.
            withdrawn: rows, of the base or added, that are not returned any more.
        """
        base = self.index.base if isinstance(self.index, SideIndex) else self.index
        n = len(self.catalogue)
        changed = replace(
            self,
            index=SideIndex(base, added=added, withdrawn=withdrawn),
            bias=np.concatenate([self.bias[:n], bias]).astype(np.float32),
            popularity=np.concatenate([self.popularity[:n], np.zeros(len(added))]).astype(
                np.float32
            ),
        )
        changed._share_types(self)
        return changed

    def weigh(self, events: Sequence[Iterable[tuple[int, str]]]) -> HistoryRows:
        """(B, n_items) float32 histories of B users' events: (row, type), newest first."""
        return self.histories([self.weigh_one(each) for each in events])

    def weigh_one(self, events: Iterable[tuple[int, str]]) -> tuple[NDArray[np.int32], FloatArray]:
        """One user's row of `weigh`: items (m,), newest first, and how loudly they speak."""
        rows, loud = self.history.weigh_newest_first(events)
        return np.array(rows, np.int32), np.array(loud, np.float32)

    def histories(self, weighed: Sequence[tuple[NDArray[np.int32], FloatArray]]) -> HistoryRows:
        """(B, n_items) float32: what `weigh_one` said of B users."""
        return HistoryRows.of(weighed, len(self.catalogue))

    def similar(
        self, row: int, *, k: int, allowed: RowFilter | NDArray[np.bool_] | None = None
    ) -> tuple[FloatArray, IntArray]:
        """The `k` items whose vectors are nearest to that of `row`: cosines and rows (k,)."""
        if isinstance(allowed, np.ndarray):
            allowed = RowFilter(allowed)
        cosines, rows = self.index.search(
            self.item_vectors[row : row + 1], k, allowed=allowed, hidden=[np.array([row])]
        )
        return cosines[0], rows[0]

    def reasons(
        self, history: SparseRows, items: FloatArray, rows: IntArray
    ) -> tuple[IntArray, FloatArray]:
        """Which history items brought those of `rows` (K,), whose vectors are `items` (K, d + r).

        Returns:
            history rows (E,) and each one's part (K, E) of the score, as far as it is linear, in
            the unit of u·z.
        """
        d = self.history_vectors.shape[1]
        flat = _flatten(history, np.zeros((1, self.user_features.dimension), np.float32))
        parts: FloatArray = contributions(
            flat, self._history_tensor, torch.from_numpy(items[:, :d])
        ).numpy()
        each = self.history_tail[history.indices] * history.data[:, None]
        length = max(float(history.data.sum()), 1e-12) ** self.scoring.length_power
        parts += items[:, d:] @ each.T / length
        if self.lists is not None:
            parts += self.scoring.temperature * self.lists.parts(history, rows)
        return history.indices.astype(np.int64), parts

    def _user_tail(self, histories: SparseRows) -> FloatArray:
        matrix = as_matrix(histories)
        lengths = np.maximum(np.asarray(matrix.sum(1)), 1e-12)  # (B, 1)
        tail: FloatArray = (matrix @ self.history_tail) / lengths**self.scoring.length_power
        return tail.astype(np.float32, copy=False)


def _flatten(histories: SparseRows, features: FloatArray) -> Histories:
    users = np.repeat(np.arange(histories.shape[0]), np.diff(histories.indptr))
    return Histories(
        rows=torch.from_numpy(histories.indices.astype(np.int64)),
        users=torch.from_numpy(users.astype(np.int64)),
        weights=torch.from_numpy(histories.data.astype(np.float32)),
        features=torch.from_numpy(features),
    )
