"""What is known of a user besides the history: categories and numbers as one vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

# Beyond this a number is a mistake; within it, what is far from the mean is cut at MAX_SPREADS.
MAX_NUMBER, MAX_SPREADS = 1e30, 5.0


class UserFeatureSpec(BaseModel):
    """How a user's features become a vector: fixed in training, kept with the model.

    Attributes:
        vocabulary: categorical column → known values.
        numeric: numeric column → (mean, standard deviation) in the training table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocabulary: dict[str, tuple[str, ...]] = {}
    numeric: dict[str, tuple[float, float]] = {}

    @classmethod
    def fit(cls, users: pl.DataFrame | None, *, max_values: int = 128) -> UserFeatureSpec:
        """Take every categorical and numeric column of the users table; none gives no features."""
        if users is None:
            return cls()
        vocabulary, numeric = {}, {}
        for name, kind in users.schema.items():
            if kind == pl.List(pl.String):
                counts = users[name].explode().drop_nulls().value_counts(sort=True, name="count")
                ranked = counts.sort("count", name, descending=[True, False])
                vocabulary[name] = tuple(ranked[name].head(max_values).to_list())
            elif kind.is_numeric():
                column = users[name].drop_nulls().cast(pl.Float64)
                values = column.to_numpy()
                spread = float(values.std()) if len(values) else 0.0
                numeric[name] = (float(values.mean()) if len(values) else 0.0, spread or 1.0)
        return cls(vocabulary=vocabulary, numeric=numeric)

    @property
    def dimension(self) -> int:
        """Length of a user's feature vector."""
        return sum(len(values) for values in self.vocabulary.values()) + len(self.numeric)

    @cached_property
    def _positions(self) -> dict[tuple[str, str], int]:
        pairs = [(name, value) for name, values in self.vocabulary.items() for value in values]
        return {pair: position for position, pair in enumerate(pairs)}

    def encode(self, users: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """(len(users), dimension) float32.

        What is missing, unknown, of another kind or no finite number is 0, the average user: a
        column that changed its kind between two trainings must not cost a user the answer.
        """
        encoded = np.zeros((len(users), self.dimension), np.float32)
        positions, offset = self._positions, self.dimension - len(self.numeric)
        for row, user in enumerate(users):
            for name in self.vocabulary:
                cell = user.get(name)
                for value in cell if isinstance(cell, list | tuple) else [cell]:
                    if isinstance(value, str) and (name, value) in positions:
                        encoded[row, positions[name, value]] = 1.0
            for column, (name, (mean, spread)) in enumerate(self.numeric.items()):
                value = user.get(name)
                if isinstance(value, int | float) and abs(value) < MAX_NUMBER:
                    deviation = (float(value) - mean) / spread
                    encoded[row, offset + column] = np.clip(deviation, -MAX_SPREADS, MAX_SPREADS)
        return encoded

    def of_table(self, users: pl.DataFrame | None, user_ids: Sequence[str]) -> NDArray[np.float32]:
        """(len(user_ids), dimension) float32 features of these users, zeros for absent ones."""
        known = by_user_id(users)
        return self.encode([known.get(user_id, {}) for user_id in user_ids])


def by_user_id(users: pl.DataFrame | None) -> dict[str, dict[str, Any]]:
    """User id → the user's features as stored online."""
    if users is None:
        return {}
    rows = users.to_dicts()
    return {row.pop("user_id"): row for row in rows}
