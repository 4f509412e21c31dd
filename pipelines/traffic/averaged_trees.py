"""Several boosted models as one: the trees of all, each worth its share.

LightGBM's probabilities are a softmax of sums over leaves, so that the mean of several models' sums
is the logarithmic pool of what they say, normalised; and it is again such a sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm

_BEGIN, _END = "\nTree=", "\n\n\nend of trees"


def averaged(boosters: Sequence[lightgbm.Booster]) -> lightgbm.Booster:
    """One multiclass model whose raw scores are the mean of those of `boosters`.

    Round r of all of them comes before round r + 1 of any; one may have stopped before another.

    Raises:
        ValueError: no booster, or boosters of different classes or columns.
    """
    shapes = [(each.num_model_per_iteration(), each.num_feature()) for each in boosters]
    if len(set(shapes)) != 1:
        raise ValueError(f"boosters of one (classes, columns) are averaged, not of {shapes}")
    if len(boosters) == 1:
        return boosters[0]
    parts = [_parts(each.model_to_string()) for each in boosters]
    head, _, tail = parts[0]
    classes, most = shapes[0][0], max(each.num_trees() for each in boosters)
    trees = [
        tree
        for begin in range(0, most, classes)
        for _, member, _ in parts
        for tree in member[begin : begin + classes]
    ]
    share = 1 / len(boosters)
    text = "".join(
        f"{_BEGIN}{number}\n{_scaled(tree, share)}\n" for number, tree in enumerate(trees)
    )
    return lightgbm.Booster(model_str=f"{head}\n{text}{tail}")


def _parts(text: str) -> tuple[str, list[str], str]:
    """Head, trees and tail of LightGBM's text, without the sizes that the head gives of trees."""
    body, end, rest = text.partition(_END)
    head, *trees = body.split(_BEGIN)
    lines = [line for line in head.splitlines() if not line.startswith("tree_sizes=")]
    return "\n".join(lines), [each.split("\n", 1)[1].rstrip() for each in trees], end + rest


def _scaled(tree: str, share: float) -> str:
    def line(text: str) -> str:
        name, _, values = text.partition("=")
        if name not in ("leaf_value", "internal_value"):
            return text
        return f"{name}={' '.join(repr(float(each) * share) for each in values.split())}"

    return "\n".join(map(line, tree.splitlines()))
