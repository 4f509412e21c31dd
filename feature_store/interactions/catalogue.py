"""The catalogue: which row of every matrix an item is, and which rows form an item type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray


@dataclass(frozen=True)
class Catalogue:
    """Items in row order: grouped by type, each type a contiguous range, by id within it.

    Attributes:
        item_ids: (n_items,) id of each row.
        item_types: (n_items,) type of each row.
    """

    item_ids: tuple[str, ...]
    item_types: tuple[str, ...]

    @classmethod
    def from_items(cls, items: pl.DataFrame) -> Catalogue:
        """The rows of an `items` table; the same items give the same rows in any order."""
        ordered = items.select("item_type", "item_id").sort("item_type", "item_id")
        return cls(tuple(ordered["item_id"].to_list()), tuple(ordered["item_type"].to_list()))

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Item id → row."""
        return dict(zip(self.item_ids, range(len(self.item_ids)), strict=True))

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The item types, sorted."""
        return tuple(sorted(set(self.item_types)))

    @cached_property
    def ranges(self) -> dict[str, range]:
        """Item type → its rows."""
        codes = np.asarray(self.item_types)
        starts = {kind: int(np.searchsorted(codes, kind)) for kind in self.types}
        stops = {kind: int(np.searchsorted(codes, kind, side="right")) for kind in self.types}
        return {kind: range(starts[kind], stops[kind]) for kind in self.types}

    def rows(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """Rows of the ids; -1 for an id that the catalogue lacks."""
        return np.fromiter(
            (self.row_of.get(item_id, -1) for item_id in item_ids), np.int64, len(item_ids)
        )

    def mask(self, item_types: Sequence[str]) -> NDArray[np.bool_]:
        """(n_items,) which rows have one of `item_types`.

        Raises:
            ValueError: a type that no item has.
        """
        if unknown := sorted(set(item_types) - set(self.types)):
            raise ValueError(f"no item has type {unknown}; the catalogue has {list(self.types)}")
        mask = np.zeros(len(self), dtype=np.bool_)
        for kind in item_types:
            rows = self.ranges[kind]
            mask[rows.start : rows.stop] = True
        return mask
