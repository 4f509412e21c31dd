"""A LightGBM model as flat arrays, read for many flows at once.

LightGBM's own `predict` walks each tree for each row, and costs more for a flow than the network
does. Here all nodes of a tree are compared, and none branches on the data: a node that sends the
row right crosses out the leaves to its left, and the first leaf that stands is the row's
(QuickScorer, SIGIR 2015). Rows are then lanes of vectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import lightgbm
import numpy as np
from numpy.typing import NDArray

from feature_store.traffic.compiled import compiled

LANES, MOST_LANES = 16, 64
MOST_LEAVES = 32  # a leaf is a bit of a uint32

FloatArray = NDArray[np.float32]


class UnsupportedTreeError(ValueError):
    """The model is none that can be flattened; LightGBM itself can still read it."""


@dataclass(frozen=True)
class BoostedTrees:
    """T trees for C classes, of which tree t speaks for class t mod C; the fast twin of `Booster`.

    Shapes:
        begin: (T + 1,) uint32, a tree's nodes
        feature: (nodes,) uint32; threshold: (nodes,) float32, a row at or below it goes left
        kept: (nodes,) uint32, the leaves that stand when the row goes right
        value: (T, 32) float64, of leaves from left to right
    """

    classes: int
    columns: int
    begin: NDArray[np.uint32]
    feature: NDArray[np.uint32]
    threshold: FloatArray
    kept: NDArray[np.uint32]
    value: NDArray[np.float64]

    @classmethod
    def of(cls, booster: lightgbm.Booster) -> BoostedTrees:
        """Flatten a multiclass model of numeric features.

        Raises:
            UnsupportedTreeError: another objective, too many leaves, or splits of other kinds.
        """
        header, *trees = booster.model_to_string().split("\n\nTree=")
        about = _fields(header)
        if not about.get("objective", "").startswith("multiclass "):
            raise UnsupportedTreeError(f"the objective is {about.get('objective')}, not multiclass")
        flat = [_Tree.of(_fields(text.split("\n\n")[0])) for text in trees]
        sizes = [len(tree.feature) for tree in flat]
        threshold = np.concatenate([tree.threshold for tree in flat])
        rounded = threshold.astype(np.float32)
        # Rows are float32: at or below a threshold is at or below the float32 that is under it.
        under = np.nextafter(rounded, np.float32(-np.inf))
        return cls(
            classes=int(about["num_class"]),
            columns=int(about["max_feature_idx"]) + 1,
            begin=np.cumsum([0, *sizes]).astype(np.uint32),
            feature=np.concatenate([tree.feature for tree in flat]),
            threshold=np.where(rounded > threshold, under, rounded).astype(np.float32),
            kept=np.concatenate([tree.kept for tree in flat]),
            value=np.stack([tree.value for tree in flat]),
        )

    def predict(self, table: FloatArray) -> NDArray[np.float64]:
        """(n, classes) probabilities of rows (n, columns) float32 without NaN.

        Raises:
            ValueError: rows of another width.
        """
        if table.shape[1] != self.columns:
            raise ValueError(f"rows have {table.shape[1]} columns, the trees read {self.columns}")
        raw = np.zeros((len(table), self.classes))
        width = min(-(-len(table) // LANES) * LANES, MOST_LANES)
        lanes = np.zeros((table.shape[1], width), np.float32)
        for row in range(0, len(table), max(width, 1)):
            rows = table[row : row + width]
            lanes[:, : len(rows)] = rows.T
            scores = np.zeros((self.classes, width))
            add_scores(
                lanes, self.begin, self.feature, self.threshold, self.kept, self.value, scores
            )
            raw[row : row + width] = scores.T[: len(rows)]
        raw = np.exp(raw - raw.max(axis=1, keepdims=True))
        found: NDArray[np.float64] = raw / raw.sum(axis=1, keepdims=True)
        return found


@dataclass(frozen=True)
class _Tree:
    feature: NDArray[np.uint32]
    threshold: NDArray[np.float64]
    kept: NDArray[np.uint32]
    value: NDArray[np.float64]

    @classmethod
    def of(cls, fields: dict[str, str]) -> _Tree:
        """From LightGBM's text: a child below 0 is a leaf, ~child its number."""
        count = int(fields["num_leaves"])
        if count > MOST_LEAVES:
            raise UnsupportedTreeError(f"a tree has {count} leaves, over {MOST_LEAVES}")
        value = np.zeros(MOST_LEAVES)
        value[:count] = np.array(fields["leaf_value"].split(), np.float64)
        if count == 1:
            none = np.zeros(0, np.uint32)
            return cls(none, np.zeros(0), none, value)
        kinds = np.array(fields["decision_type"].split(), np.int64)
        if (kinds & 1).any() or (kinds >> 2 & 3 == 1).any():
            raise UnsupportedTreeError("a split is categorical, or takes zero as missing")
        left = [int(child) for child in fields["left_child"].split()]
        right = [int(child) for child in fields["right_child"].split()]
        order: list[int] = []  # leaves from left to right
        kept = np.zeros(count - 1, np.uint32)

        def walk(node: int) -> int:
            if node < 0:
                order.append(~node)
                return 1 << (len(order) - 1)
            lefts = walk(left[node])
            kept[node] = 0xFFFFFFFF ^ lefts
            return lefts | walk(right[node])

        walk(0)
        value[:count] = value[order]
        return cls(
            np.array(fields["split_feature"].split(), np.uint32),
            np.array(fields["threshold"].split(), np.float64),
            kept,
            value,
        )


def _fields(text: str) -> dict[str, str]:
    def pairs() -> Iterator[tuple[str, str]]:
        for line in text.splitlines():
            name, equals, value = line.partition("=")
            if equals:
                yield name, value

    return dict(pairs())


@compiled
def add_scores(
    lanes: FloatArray,
    begin: NDArray[np.uint32],
    feature: NDArray[np.uint32],
    threshold: FloatArray,
    kept: NDArray[np.uint32],
    value: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> None:
    """Add the leaf of every tree to `scores` (classes, W); `lanes` is (columns, W)."""
    # Not a constant: a loop of known length is unrolled before it can become vectors.
    width = lanes.shape[1]
    everything = np.uint32(0xFFFFFFFF)
    standing = np.empty(width, np.uint32)
    for tree in range(np.uint32(begin.size - 1)):
        for lane in range(width):
            standing[lane] = everything
        for node in range(begin[tree], begin[tree + 1]):
            row = lanes[feature[node]]
            limit, rest = threshold[node], kept[node]
            for lane in range(width):
                standing[lane] &= everything if row[lane] <= limit else rest
        target, leaf = scores[tree % scores.shape[0]], value[tree]
        for lane in range(width):
            lowest = standing[lane] & (~standing[lane] + np.uint32(1))
            target[lane] += leaf[PLACES[np.uint32(lowest * DE_BRUIJN) >> np.uint32(27)]]


# The lowest bit alone times this has its place in its top five bits (a de Bruijn sequence).
DE_BRUIJN = np.uint32(0x077CB531)


def _places() -> NDArray[np.int64]:
    places = np.zeros(32, np.int64)
    for bit in range(32):
        places[((1 << bit) * int(DE_BRUIJN) & 0xFFFFFFFF) >> 27] = bit
    return places


PLACES = _places()
