"""The flattened tree against LightGBM's own reading of it."""

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.editions.boosted_trees import MOST_LANES, BoostedTrees, UnsupportedTreeError

COLUMNS = 6


def trained(
    *, classes: int, leaves: int, seed: int, categorical: tuple[int, ...] = (), **parameters
) -> tuple[lightgbm.Booster, np.ndarray]:
    rng = np.random.default_rng(seed)
    # Small integers: many rows lie exactly on a threshold, and some columns never split.
    table = rng.integers(0, 6, (300, COLUMNS)).astype(np.float32) / 3
    label = rng.integers(0, classes, 300)
    booster = lightgbm.train(
        {
            "objective": "multiclass",
            "num_class": classes,
            "num_leaves": leaves,
            "min_data_in_leaf": 2,
            "verbose": -1,
            "num_threads": 1,
            "seed": seed,
        }
        | parameters,
        lightgbm.Dataset(table, label, categorical_feature=list(categorical)),
        num_boost_round=5,
    )
    return booster, table


@settings(max_examples=15, deadline=None)
@given(
    classes=st.integers(2, 5),
    leaves=st.integers(2, 32),
    seed=st.integers(0, 1000),
    rows=st.integers(0, 2 * MOST_LANES + 3),
)
def test_probabilities_are_those_of_lightgbm(
    classes: int, leaves: int, seed: int, rows: int
) -> None:
    booster, table = trained(classes=classes, leaves=leaves, seed=seed)
    found = BoostedTrees.of(booster).predict(table[:rows])
    assert found.shape == (rows, classes)
    if rows:
        np.testing.assert_allclose(found, booster.predict(table[:rows]), rtol=0, atol=1e-12)


def test_a_tree_without_splits_is_its_one_leaf() -> None:
    booster, table = trained(classes=3, leaves=4, seed=0, min_data_in_leaf=1000)
    np.testing.assert_allclose(
        BoostedTrees.of(booster).predict(table), booster.predict(table), rtol=0, atol=1e-12
    )


def test_a_threshold_between_two_float32_numbers_parts_them() -> None:
    below = np.float32(0.1)
    above = np.nextafter(below, np.float32(1))
    table = np.array([[below], [above]] * 50, np.float32)
    booster = lightgbm.train(
        {"objective": "multiclass", "num_class": 2, "min_data_in_leaf": 2, "verbose": -1},
        lightgbm.Dataset(table.astype(np.float64), np.array([0, 1] * 50)),
        num_boost_round=10,
    )
    np.testing.assert_allclose(
        BoostedTrees.of(booster).predict(table), booster.predict(table), rtol=0, atol=1e-12
    )


def test_what_cannot_be_flattened_is_named() -> None:
    with pytest.raises(UnsupportedTreeError, match="objective"):
        BoostedTrees.of(trained(classes=2, leaves=4, seed=0, objective="binary", num_class=1)[0])
    with pytest.raises(UnsupportedTreeError, match="leaves"):
        BoostedTrees.of(trained(classes=2, leaves=60, seed=0)[0])
    with pytest.raises(UnsupportedTreeError, match="categorical"):
        BoostedTrees.of(trained(classes=2, leaves=8, seed=0, categorical=tuple(range(COLUMNS)))[0])


def test_rows_of_another_width_are_refused() -> None:
    booster, table = trained(classes=2, leaves=4, seed=0)
    with pytest.raises(ValueError, match=r"5 columns, the trees read 6"):
        BoostedTrees.of(booster).predict(table[:, :5])
