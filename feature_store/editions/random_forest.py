"""A random forest as flat arrays: read without scikit-learn, stored without pickle.

The nodes of a tree stand in pre-order: a row that is at or below a node's threshold goes to the
next node, and any other to one further on, so that a walk only ever goes forwards and ends. A leaf
of a forest that is grown to the end knows one class or two, and only those are kept.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from feature_store.traffic.compiled import compiled

LEAF = 0xFFFF

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class RandomForest:
    """T trees of N nodes and L leaves together, whose leaves hold V shares of classes.

    Shapes:
        begin: (T + 1,) uint32, a tree's nodes
        feature: (N,) uint16, the column that is compared; `LEAF` at a leaf
        threshold: (N,) float32, a row at or below it goes to the next node
        other: (N,) uint32, where any other row goes; at a leaf, its number
        held: (L + 1,) uint32, a leaf's shares
        label: (V,) uint16, share: (V,) float64: of a leaf they sum to 1
        width: (2,) int64, columns of a row and classes
    """

    begin: NDArray[np.uint32]
    feature: NDArray[np.uint16]
    threshold: FloatArray
    other: NDArray[np.uint32]
    held: NDArray[np.uint32]
    label: NDArray[np.uint16]
    share: NDArray[np.float64]
    width: NDArray[np.int64]

    @property
    def columns(self) -> int:
        """Of a row."""
        return int(self.width[0])

    @property
    def classes(self) -> int:
        """Columns of `predict`."""
        return int(self.width[1])

    @property
    def trees(self) -> int:
        """How many there are."""
        return len(self.begin) - 1

    @classmethod
    def of(cls, trees: list[Any], labels: NDArray[np.int64], *, classes: int) -> RandomForest:
        """Flatten scikit-learn's trees.

        Args:
            trees: `tree_` of each of a `RandomForestClassifier`'s estimators.
            labels: its `classes_`.
            classes: how many there are, seen in training or not.

        Raises:
            ValueError: no tree, or more columns or classes than the arrays can name.
        """
        if not trees:
            raise ValueError("a forest needs at least one tree")
        columns = int(trees[0].n_features)
        if columns >= LEAF or classes > LEAF:
            raise ValueError(f"{columns} columns and {classes} classes: the most is {LEAF - 1}")
        flat = [_flattened(tree, labels) for tree in trees]
        nodes = np.cumsum([0, *(len(each.feature) for each in flat)])
        leaves = np.cumsum([0, *(len(each.held) for each in flat)])
        other = [
            each.other + np.where(each.feature == LEAF, leaf, node).astype(np.uint32)
            for each, node, leaf in zip(flat, nodes[:-1], leaves[:-1], strict=True)
        ]
        return cls(
            begin=nodes.astype(np.uint32),
            feature=np.concatenate([each.feature for each in flat]),
            threshold=np.concatenate([each.threshold for each in flat]),
            other=np.concatenate(other).astype(np.uint32),
            held=np.cumsum([0, *np.concatenate([each.held for each in flat])]).astype(np.uint32),
            label=np.concatenate([each.label for each in flat]),
            share=np.concatenate([each.share for each in flat]),
            width=np.array([columns, classes], np.int64),
        )

    def predict(self, table: FloatArray) -> NDArray[np.float64]:
        """(n, classes) mean of the trees' shares, for rows (n, columns) float32 without NaN.

        Raises:
            ValueError: rows of another width.
        """
        if table.shape[1] != self.columns:
            raise ValueError(f"rows have {table.shape[1]} columns, the trees read {self.columns}")
        found = np.zeros((len(table), self.classes))
        add_shares(
            np.ascontiguousarray(table, np.float32),
            self.begin,
            self.feature,
            self.threshold,
            self.other,
            self.held,
            self.label,
            self.share,
            found,
        )
        mean: NDArray[np.float64] = found / self.trees
        return mean

    def save(self, file: Path) -> None:
        """As safetensors."""
        save_file({each.name: getattr(self, each.name) for each in fields(self)}, file)

    @classmethod
    def load(cls, file: Path) -> RandomForest:
        """Read what `save` wrote.

        Raises:
            ValueError: it is no forest, or one that would be read outside its arrays.
        """
        try:
            forest = cls(**load_file(file))
        except (SafetensorError, TypeError) as error:
            raise ValueError(f"{file} holds no random forest: {error}") from error
        forest._check(file)
        return forest

    def _check(self, file: Path) -> None:
        """Compiled code looks at no bounds."""
        kinds = {each.name: getattr(self, each.name).dtype.name for each in fields(self)}
        if kinds != _KINDS or any(getattr(self, name).ndim != 1 for name in kinds):
            raise ValueError(f"{file} holds no random forest: its arrays are {kinds}")
        nodes, leaves = len(self.feature), len(self.held) - 1
        place = np.arange(nodes)
        leaf = self.feature == LEAF
        tree = np.searchsorted(self.begin, place, side="right") - 1
        sound = (
            len(self.width) == 2
            and len(self.threshold) == len(self.other) == nodes
            and len(self.label) == len(self.share)
            and _is_partition(self.begin, nodes)
            and (np.diff(self.begin.astype(np.int64)) > 0).all()
            and leaf[self.begin[1:].astype(np.int64) - 1].all()
            and _is_partition(self.held, len(self.label))
            and (self.other[leaf] < leaves).all()
            and (self.feature[~leaf] < self.columns).all()
            and (self.other > place)[~leaf].all()
            and (self.other < self.begin[np.minimum(tree + 1, self.trees)])[~leaf].all()
            and (self.label < self.classes).all()
        )
        if not sound:
            raise ValueError(f"{file} holds a random forest whose arrays contradict each other")


_KINDS = {
    "begin": "uint32", "feature": "uint16", "threshold": "float32", "other": "uint32",
    "held": "uint32", "label": "uint16", "share": "float64", "width": "int64",
}  # fmt: skip


def _is_partition(bounds: NDArray[np.uint32], count: int) -> bool:
    """Whether they go from 0 to `count` and never back."""
    return bool(
        len(bounds) >= 2
        and bounds[0] == 0
        and bounds[-1] == count
        and (np.diff(bounds.astype(np.int64)) >= 0).all()
    )


@dataclass(frozen=True)
class _Flat:
    """One tree, its nodes and leaves counted from 0; `held` are counts."""

    feature: NDArray[np.uint16]
    threshold: FloatArray
    other: NDArray[np.uint32]
    held: NDArray[np.int64]
    label: NDArray[np.uint16]
    share: NDArray[np.float64]


def _flattened(tree: Any, labels: NDArray[np.int64]) -> _Flat:
    order = _preorder(tree.children_left, tree.children_right)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    leaf = (tree.children_left < 0)[order]
    value = tree.value[order[leaf], 0].astype(np.float64)  # (leaves, classes seen)
    value /= value.sum(axis=1, keepdims=True)
    row, column = np.nonzero(value)
    other = np.zeros(len(order), np.uint32)
    other[leaf] = np.arange(int(leaf.sum()))
    other[~leaf] = place[tree.children_right[order[~leaf]]]
    threshold = np.where(leaf, 0.0, tree.threshold[order])
    rounded = threshold.astype(np.float32)
    # Rows are float32: at or below a threshold is at or below the float32 that is under it.
    under = np.nextafter(rounded, np.float32(-np.inf))
    return _Flat(
        feature=np.where(leaf, LEAF, tree.feature[order]).astype(np.uint16),
        threshold=np.where(rounded > threshold, under, rounded).astype(np.float32),
        other=other,
        held=np.bincount(row, minlength=len(value)),
        label=labels[column].astype(np.uint16),
        share=value[row, column],
    )


def _preorder(left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.int64]:
    """(nodes,) a node, all that is left of it, all that is right of it."""
    order, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        order.append(node)
        if left[node] >= 0:
            waiting += [int(right[node]), int(left[node])]
    return np.array(order, np.int64)


@compiled
def add_shares(
    table: FloatArray,
    begin: NDArray[np.uint32],
    feature: NDArray[np.uint16],
    threshold: FloatArray,
    other: NDArray[np.uint32],
    held: NDArray[np.uint32],
    label: NDArray[np.uint16],
    share: NDArray[np.float64],
    found: NDArray[np.float64],
) -> None:
    """Add every tree's shares to `found` (n, classes); a tree's nodes stay in the cache for all
    rows of `table` (n, columns)."""
    for tree in range(begin.size - 1):
        for row in range(table.shape[0]):
            node = np.int64(begin[tree])
            while feature[node] != LEAF:
                if table[row, feature[node]] <= threshold[node]:
                    node += 1
                else:
                    node = np.int64(other[node])
            leaf = other[node]
            for each in range(np.int64(held[leaf]), np.int64(held[leaf + 1])):
                found[row, label[each]] += share[each]
