"""The flattened forest against scikit-learn's own reading of it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier

from feature_store.editions.random_forest import RandomForest

COLUMNS = 6


def trained(
    *, classes: int = 4, seed: int = 0, kind: type = RandomForestClassifier, **parameters
) -> tuple[RandomForestClassifier, np.ndarray]:
    rng = np.random.default_rng(seed)
    # Thirds: many rows lie exactly on a threshold.
    table = rng.integers(0, 6, (200, COLUMNS)).astype(np.float32) / 3
    label = rng.integers(0, classes, 200)
    weight = rng.random(200)
    parameters = {"n_estimators": 5, "random_state": seed} | parameters
    return kind(**parameters).fit(table, label, sample_weight=weight), table


def flattened(model: RandomForestClassifier, *, classes: int) -> RandomForest:
    return RandomForest.of(
        [each.tree_ for each in model.estimators_], model.classes_, classes=classes
    )


@settings(max_examples=25, deadline=None)
@given(
    classes=st.integers(2, 6),
    seed=st.integers(0, 1000),
    rows=st.integers(0, 200),
    kind=st.sampled_from([RandomForestClassifier, ExtraTreesClassifier]),
    leaf_rows=st.integers(1, 60),
    leaves=st.one_of(st.none(), st.integers(2, 40)),
)
def test_probabilities_are_those_of_scikit_learn(
    classes: int, seed: int, rows: int, kind: type, leaf_rows: int, leaves: int | None
) -> None:
    model, table = trained(
        classes=classes, seed=seed, kind=kind, min_samples_leaf=leaf_rows, max_leaf_nodes=leaves
    )
    noise = np.random.default_rng(seed).normal(1, 1, table.shape).astype(np.float32)
    asked = np.concatenate([table, noise])[:rows]
    found = flattened(model, classes=classes).predict(asked)
    assert found.shape == (rows, classes)
    if rows:
        np.testing.assert_allclose(found, model.predict_proba(asked), rtol=0, atol=1e-12)


def test_a_threshold_between_two_float32_numbers_parts_them() -> None:
    below = np.float32(0.1)
    above = np.nextafter(below, np.float32(1))
    table = np.array([[below], [above]] * 50, np.float32)
    model = RandomForestClassifier(5, random_state=0, bootstrap=False)
    model.fit(table, np.array([0, 1] * 50))
    np.testing.assert_array_equal(
        flattened(model, classes=2).predict(table), model.predict_proba(table)
    )


def test_a_class_that_training_lacked_has_no_share() -> None:
    table = np.arange(20, dtype=np.float32)[:, None]
    model = RandomForestClassifier(3, random_state=0).fit(table, np.where(table[:, 0] > 9, 3, 1))
    found = flattened(model, classes=5).predict(table)
    np.testing.assert_array_equal(found[:, [0, 2, 4]], 0)
    np.testing.assert_allclose(found[:, [1, 3]], model.predict_proba(table))


def test_a_saved_forest_says_the_same(tmp_path: Path) -> None:
    model, table = trained()
    forest = flattened(model, classes=4)
    forest.save(tmp_path / "forest.safetensors")
    loaded = RandomForest.load(tmp_path / "forest.safetensors")
    np.testing.assert_array_equal(loaded.predict(table), forest.predict(table))


@pytest.mark.parametrize("name", ["begin", "feature", "other", "held", "label", "width"])
def test_a_file_that_would_be_read_outside_its_arrays_is_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "forest.safetensors"
    flattened(trained()[0], classes=4).save(file)
    arrays = load_file(file)
    broken = arrays[name].copy()
    broken[0 if name == "width" else len(broken) // 2] = 60_000 if name != "width" else 1
    save_file(arrays | {name: broken}, file)
    with pytest.raises(ValueError, match="contradict each other"):
        RandomForest.load(file)


def test_another_file_is_no_forest(tmp_path: Path) -> None:
    file = tmp_path / "forest.safetensors"
    file.write_bytes(b"no forest")
    with pytest.raises(ValueError, match="holds no random forest"):
        RandomForest.load(file)
    save_file({"weight": np.zeros(3)}, file)
    with pytest.raises(ValueError, match="holds no random forest"):
        RandomForest.load(file)


def test_rows_of_another_width_are_refused() -> None:
    model, table = trained()
    with pytest.raises(ValueError, match=r"5 columns, the trees read 6"):
        flattened(model, classes=4).predict(table[:, :5])
