"""What the towers learn from: parts of histories, and what was hidden from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from models.recommender.losses import Targets
from models.recommender.user_tower import Histories


@dataclass(frozen=True)
class Hiding:
    """How much of a user is hidden; see `TowerConfig` for the meaning of each share."""

    share: float
    all_targets: float
    others: float
    user_weight: float


def epoch_batches(
    histories: sp.csr_matrix,
    features: NDArray[np.float32],
    *,
    competing: NDArray[np.int64],
    hiding: Hiding,
    batch_size: int,
    rng: np.random.Generator,
) -> Iterator[tuple[Histories, Targets]]:
    """One pass over the users who have an item among `competing`, in random order.

    Of each user some items are hidden; the tower sees the rest, and those hidden that compete are
    the targets. A visible item does not compete: it is known to be had already.

    Args:
        histories: (n_users, n_items) float32 weights.
        features: (n_users, F).
        competing: (C,) int64 sorted rows of the items that may be targets.
        hiding: the shares.
        batch_size: users per batch.
        rng: randomness of this epoch.

    Yields:
        what the tower sees, and targets whose items are positions in `competing`.
    """
    column_of = np.full(histories.shape[1], -1, np.int64)
    column_of[competing] = np.arange(len(competing))
    user_of = np.repeat(np.arange(histories.shape[0]), np.diff(histories.indptr))
    relevant = np.bincount(user_of[column_of[histories.indices] >= 0], minlength=histories.shape[0])
    users = rng.permutation(np.flatnonzero(relevant))
    for start in range(0, len(users), batch_size):
        batch = users[start : start + batch_size]
        part = histories[batch]
        yield _hide(part, features[batch], column_of, hiding, rng)


def _hide(
    part: sp.csr_matrix,
    features: NDArray[np.float32],
    column_of: NDArray[np.int64],
    hiding: Hiding,
    rng: np.random.Generator,
) -> tuple[Histories, Targets]:
    n_users = part.shape[0]
    user = np.repeat(np.arange(n_users), np.diff(part.indptr))
    column = column_of[part.indices]
    competes = column >= 0
    everything = rng.random(n_users) < hiding.all_targets
    chance = rng.random(len(user))
    hidden = np.where(competes, (chance < hiding.share) | everything[user], chance < hiding.others)
    # Every user has a target: one is drawn where chance hid none.
    target = hidden & competes
    without = np.flatnonzero(np.bincount(user[target], minlength=n_users) == 0)
    if len(without):
        candidate = np.where(competes, rng.random(len(user)), -1.0)
        order = np.lexsort((candidate, user))
        last = np.searchsorted(user, without, side="right") - 1
        hidden[order[last]] = True
        target = hidden & competes
    counts = np.bincount(user[target], minlength=n_users)
    weight = (counts[user[target]] ** (hiding.user_weight - 1.0)).astype(np.float32)
    seen = ~hidden
    blocked = seen & competes
    return (
        Histories(
            rows=torch.from_numpy(part.indices[seen].astype(np.int64)),
            users=torch.from_numpy(user[seen]),
            weights=torch.from_numpy(part.data[seen].astype(np.float32)),
            features=torch.from_numpy(features),
        ),
        Targets(
            users=torch.from_numpy(user[target]),
            items=torch.from_numpy(column[target]),
            weights=torch.from_numpy(weight),
            seen_users=torch.from_numpy(user[blocked]),
            seen_items=torch.from_numpy(column[blocked]),
        ),
    )


def share_of(
    histories: Histories, targets: Targets, users: torch.Tensor
) -> tuple[Histories, Targets]:
    """The same batch with only some of its users, who take the places 0, 1, … in this order."""
    place = torch.full((len(histories),), -1)
    place[users] = torch.arange(len(users))
    known, wanted = place[histories.users], place[targets.users]
    seen = place[targets.seen_users]
    return (
        Histories(
            rows=histories.rows[known >= 0],
            users=known[known >= 0],
            weights=histories.weights[known >= 0],
            features=histories.features[users],
        ),
        Targets(
            users=wanted[wanted >= 0],
            items=targets.items[wanted >= 0],
            weights=targets.weights[wanted >= 0],
            seen_users=seen[seen >= 0],
            seen_items=targets.seen_items[seen >= 0],
        ),
    )
