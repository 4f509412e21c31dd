"""Another index for an edition, chosen and tuned on its own users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.recommender import RecommenderEdition
from feature_store.vectors import Trial, tune
from feature_store.vectors.spec import Kind


@dataclass(frozen=True)
class IndexReport:
    """How the index was chosen; part of the version's metrics.

    Attributes:
        chosen: the setting that serves, with the recall measured on held-out queries.
        reached: whether it is at least the target.
        queries: users in the sample, half of them held out.
    """

    chosen: Trial
    trials: tuple[Trial, ...]
    target_recall: float
    reached: bool
    k: int
    queries: int

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {
            **{name: _rounded(value) for name, value in asdict(self.chosen).items()},
            "target_recall": self.target_recall,
            "reached": self.reached,
            "k": self.k,
            "queries": self.queries,
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "trials": [
                {name: _rounded(value) for name, value in asdict(trial).items()}
                for trial in self.trials
            ],
        }


def with_tuned_index(
    edition: RecommenderEdition,
    users: NDArray[np.float32],
    *,
    target_recall: float,
    k: int = 100,
    kinds: Sequence[Kind] | None = None,
    seed: int = 0,
    on_trial: Callable[[str], None] = lambda _: None,
) -> tuple[RecommenderEdition, IndexReport]:
    """The edition with the fastest index that finds `target_recall` of the lists it serves.

    Args:
        edition: whose item vectors are indexed.
        users: (Q, d + r) user vectors to search for, from `RecommenderEdition.user_vectors`.
        target_recall: of the exact best `k` by score, bias included.
        k: length of the list.
        kinds: which indexes to try.
        seed: of the index's training.
        on_trial: told what goes on.

    Raises:
        ValueError: too few users, or a recall outside (0, 1].
    """
    tuned = tune(
        edition.item_vectors,
        users,
        target_recall=target_recall,
        k=k,
        offset=edition.bias * edition.scoring.temperature,
        kinds=kinds,
        seed=seed,
        on_trial=on_trial,
    )
    scoring = edition.scoring.model_copy(
        update={"candidates": tuned.nearest, "tuned_k": min(k, len(edition.catalogue))}
    )
    report = IndexReport(
        chosen=tuned.best,
        trials=tuned.trials,
        target_recall=target_recall,
        reached=tuned.reached,
        k=k,
        queries=len(users),
    )
    return replace(edition, index=tuned.index, scoring=scoring), report


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
