"""Both towers and what turns their inner product into a score.

    score(u, i) = u·z_i / τ + b_i,     b_i = ρ log(1 + n_i) + β_i

with n_i the interactions of i in training. Temperature, ρ and β are learned with the towers; the
bias is added after retrieval, so that the vectors stay normalised and approximate search stays
cheap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.recommender.item_tower import ItemInputs, ItemTower
from models.recommender.user_tower import UserTower


@dataclass(frozen=True)
class ItemOutputs:
    """What the item side computes once per step, or once per edition.

    Shapes:
        vectors: (n, d) unit z. history_vectors: (n, d) p. bias: (n,). temperature: scalar.
    """

    vectors: Tensor
    history_vectors: Tensor
    bias: Tensor
    temperature: Tensor


class TwoTower(nn.Module):
    """See the module."""

    def __init__(
        self,
        *,
        item_tower: ItemTower,
        user_tower: UserTower,
        popularity: Tensor,
        temperature: float,
        popularity_gain: float,
    ) -> None:
        """`popularity`: (n,) interactions in training."""
        super().__init__()
        self.item_tower = item_tower
        self.user_tower = user_tower
        self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.popularity_gain = nn.Parameter(torch.tensor(popularity_gain))
        self.item_bias = nn.Parameter(torch.zeros(len(popularity)))
        self.register_buffer("log_popularity", torch.log1p(popularity), persistent=False)

    def items(self, inputs: ItemInputs) -> ItemOutputs:
        """Vectors, bias and temperature of the whole catalogue."""
        vectors, history_vectors = self.item_tower(inputs)
        log_popularity: Tensor = self.get_buffer("log_popularity")
        return ItemOutputs(
            vectors=vectors,
            history_vectors=history_vectors,
            bias=self.popularity_gain * log_popularity + self.item_bias,
            temperature=self.log_temperature.exp(),
        )
