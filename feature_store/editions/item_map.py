"""The item space as a flat picture: who is near whom, for the eye.

Drawn once, when a version is published (`layout.py`), and kept with it. The most popular items are
the landmarks; any other item, also one that is added later, lies among the landmarks that it is
nearest to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.ndimage import gaussian_filter

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

LANDMARKS = 4_000
# Places are looked for on a grid, smoothed by so many of its cells.
_GRID, _SMOOTHING = 32, 1.5
_FEWEST, _LEAST_LIFT = 8, 1.5


@dataclass(frozen=True)
class Place:
    """A word where, on the map, it is most typical."""

    name: str
    x: float
    y: float


@dataclass(frozen=True)
class ItemMap:
    """Where the landmarks lie.

    Attributes:
        rows: (m,) of the catalogue, the most popular first.
        xy: (m, 2) float32 in [0, 1].
        vectors: (m, d) float32 unit vectors.
    """

    rows: IntArray
    xy: FloatArray
    vectors: FloatArray

    @classmethod
    def of(
        cls,
        vectors: FloatArray,
        popularity: FloatArray,
        *,
        landmarks: int = LANDMARKS,
        seed: int = 0,
    ) -> ItemMap:
        """Lay out items by their vectors (n, d); some seconds for `LANDMARKS` of them."""
        rows = np.argsort(-popularity, kind="stable")[:landmarks].astype(np.int64)
        unit = _unit(vectors[rows])
        if len(rows) <= 2:
            return cls(rows, np.full((len(rows), 2), 0.5, np.float32), unit)
        from feature_store.editions.layout import lay_out  # compiled: serving needs none of it

        return cls(rows, lay_out(unit, seed=seed), unit)

    def save(self, path: Path) -> None:
        """Write the places; the vectors are the item vectors of `rows`."""
        save_file({"rows": self.rows, "xy": self.xy}, path)

    @classmethod
    def load(cls, path: Path, item_vectors: FloatArray) -> ItemMap | None:
        """What `save` wrote; None of a version that was published without a map.

        Raises:
            ValueError: the map is of another catalogue.
        """
        if not path.exists():
            return None
        arrays = load_file(path)
        rows, xy = arrays["rows"], arrays["xy"]
        if xy.shape != (len(rows), 2) or (len(rows) and rows.max() >= len(item_vectors)):
            raise ValueError(f"{path.name} places other items than the {len(item_vectors)} here")
        return cls(rows, xy, _unit(item_vectors[rows]))

    def renumbered(self, new_rows: IntArray) -> ItemMap:
        """The same map of a changed catalogue; `new_rows` (n,) of each old row, -1 of one gone."""
        stays = new_rows[self.rows] >= 0
        return ItemMap(new_rows[self.rows][stays], self.xy[stays], self.vectors[stays])

    def place(self, vectors: FloatArray) -> FloatArray:
        """(k, 2) where items with these vectors (k, d) lie: amid their nearest landmarks."""
        if len(vectors) == 0 or len(self.rows) == 0:
            return np.full((len(vectors), 2), 0.5, np.float32)
        from feature_store.editions.layout import nearest

        near = nearest(_unit(vectors), self.vectors, min(3, len(self.rows)))
        placed: FloatArray = np.median(self.xy[near], axis=1).astype(np.float32)
        return placed

    def places(self, words: Sequence[Sequence[str]], *, most: int = 12) -> list[Place]:
        """The words that some part of the map has more of than the rest, each where it has most.

        Args:
            words: of each landmark.
            most: how many are returned, the most frequent first.
        """
        cells = np.minimum((self.xy * _GRID).astype(np.int64), _GRID - 1)
        where: dict[str, list[int]] = {}
        for number, each in enumerate(words):
            for word in each:
                where.setdefault(word, []).append(number)
        everything = _density(cells)
        found: list[Place] = []
        for word, members in sorted(where.items(), key=lambda pair: (-len(pair[1]), pair[0])):
            if len(members) < _FEWEST:
                break
            share = _density(cells[members]) / (everything + 1.0 / _GRID)
            best = np.unravel_index(int(share.argmax()), share.shape)
            lift = float(share[best]) * len(words) / len(members)
            if lift >= _LEAST_LIFT:
                x, y = ((float(cell) + 0.5) / _GRID for cell in best)
                if all(abs(x - o.x) > 0.14 or abs(y - o.y) > 0.04 for o in found):
                    found.append(Place(word, x, y))
            if len(found) == most:
                break
        return found


def _unit(vectors: FloatArray) -> FloatArray:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit


def _density(cells: IntArray) -> FloatArray:
    counts = np.zeros((_GRID, _GRID), np.float32)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1.0)
    smooth: FloatArray = gaussian_filter(counts, _SMOOTHING)
    return smooth
