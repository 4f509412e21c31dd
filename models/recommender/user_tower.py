"""The user tower: a user is what they consumed, plus what is known of them. No user table.

    g_t = Σ_{j in history, type(j) = t} w_j p_j          one sum per item type
    u   = n( n(Σ_t g_t) + MLP([n(g_1) … n(g_T), log(1 + count_t) / 3, features]) )

with n(x) = x / ‖x‖₂, p_j the item's *history vector*, and w_j the weight of the interaction. The
first term is linear in the history, so a user that appeared a minute ago is placed as well as an
old one, and each history item's share in a score is exact. The second is learned from zero: it
moves a user away from the sum only as far as the data ask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Histories:
    """B users' histories, flattened.

    Shapes:
        rows: (E,) int64 item rows.
        users: (E,) int64 position of the user in the batch.
        weights: (E,) float32, above 0.
        features: (B, F) float32; F may be 0.
    """

    rows: Tensor
    users: Tensor
    weights: Tensor
    features: Tensor

    def __len__(self) -> int:
        return len(self.features)


class UserTower(nn.Module):
    """See the module.

    Shapes:
        histories: B users; vectors: (n_items, d) history vectors; types: (n_items,) int64.
        returns: (B, d) rows of unit length, or zero for a user of whom nothing is known.
    """

    def __init__(self, *, dimension: int, n_types: int, n_features: int, d_hidden: int) -> None:
        """`d_hidden=0` leaves the learned term out."""
        super().__init__()
        self.n_types = n_types
        self.residual: nn.Sequential | None = None
        if d_hidden:
            last = nn.Linear(d_hidden, dimension)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            d_in = n_types * dimension + n_types + n_features
            self.residual = nn.Sequential(nn.Linear(d_in, d_hidden), nn.GELU(), last)

    def forward(self, histories: Histories, vectors: Tensor, types: Tensor) -> Tensor:
        """See the class."""
        sums, counts = self._sums_per_type(histories, vectors, types)
        user = functional.normalize(sums.sum(1), dim=-1)  # (B, d)
        if self.residual is None:
            return user
        groups = functional.normalize(sums, dim=-1).flatten(1)  # (B, T·d)
        known = torch.cat([groups, torch.log1p(counts) / 3, histories.features], dim=1)
        moved: Tensor = functional.normalize(user + self.residual(known), dim=-1)
        return moved

    def with_types(self, places: Sequence[int]) -> UserTower:
        """A copy over other item types: `places` (T',) says which of this one's types each is; of
        -1, one that it has not met, the learned term knows nothing."""
        if self.residual is None:
            return UserTower(dimension=1, n_types=len(places), n_features=0, d_hidden=0)
        state, n = self.state_dict(), self.n_types
        first = state["residual.0.weight"]
        dimension, (d_hidden, d_in) = len(state["residual.2.weight"]), first.shape
        n_features = d_in - n * (dimension + 1)
        sums, counts, features = first.split([n * dimension, n, n_features], dim=1)
        of_type = torch.cat([sums.view(-1, n, dimension), counts[:, :, None]], dim=2)
        unmet = torch.zeros_like(of_type[:, :1])
        of_type = torch.cat([of_type, unmet], dim=1)[:, torch.tensor(places)]  # -1 is the last
        tower = UserTower(
            dimension=dimension, n_types=len(places), n_features=n_features, d_hidden=d_hidden
        )
        parts = [of_type[..., :-1].flatten(1), of_type[..., -1], features]
        tower.load_state_dict({**state, "residual.0.weight": torch.cat(parts, dim=1)})
        return tower.train(self.training)

    def _sums_per_type(
        self, histories: Histories, vectors: Tensor, types: Tensor
    ) -> tuple[Tensor, Tensor]:
        n_bags = len(histories) * self.n_types
        bags = histories.users * self.n_types + types[histories.rows]  # (E,)
        order = torch.argsort(bags, stable=True)
        counts = torch.bincount(bags, minlength=n_bags)
        sums = functional.embedding_bag(
            histories.rows[order],
            vectors,
            counts.cumsum(0) - counts,
            mode="sum",
            per_sample_weights=histories.weights[order],
        )  # (B·T, d)
        per_type = (len(histories), self.n_types)
        return sums.view(*per_type, -1), counts.view(per_type).to(sums.dtype)


def contributions(histories: Histories, vectors: Tensor, items: Tensor) -> Tensor:
    """Each history item's share in the linear part of its user's cosine with `items`.

    Shapes:
        histories: of one user, E entries; vectors: (n_items, d); items: (K, d) unit item vectors.
        returns: (K, E); a row sums to the cosine of n(Σ w_j p_j) with the item.
    """
    parts = vectors[histories.rows] * histories.weights[:, None]  # (E, d)
    length = parts.sum(0).norm().clamp(min=1e-12)
    shares: Tensor = items @ parts.T / length
    return shares


def user_vector_reference(
    tower: UserTower,
    rows: list[int],
    weights: list[float],
    features: Tensor,
    vectors: Tensor,
    types: Tensor,
) -> Tensor:
    """The obvious twin for one user: the equations of the module, item by item. Returns (d,)."""
    d = vectors.shape[1]
    sums = [torch.zeros(d) for _ in range(tower.n_types)]
    counts = [0 for _ in range(tower.n_types)]
    for row, weight in zip(rows, weights, strict=True):
        kind = int(types[row])
        sums[kind] = sums[kind] + weight * vectors[row]
        counts[kind] += 1

    def unit(x: Tensor) -> Tensor:
        return x / x.norm() if x.norm() > 0 else x

    user = unit(torch.stack(sums).sum(0))
    if tower.residual is None:
        return user
    parts = [unit(each) for each in sums]
    logs = torch.log1p(torch.tensor(counts, dtype=torch.float32)) / 3
    return unit(user + tower.residual(torch.cat([*parts, logs, features])))
