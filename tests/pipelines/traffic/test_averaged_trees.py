import lightgbm
import numpy as np
import pytest

from feature_store.editions.boosted_trees import BoostedTrees
from pipelines.traffic.averaged_trees import averaged

RNG = np.random.default_rng(0)
TABLE = RNG.normal(size=(400, 6)).astype(np.float32)
LABEL = (TABLE[:, 0] > 0).astype(int) + (TABLE[:, 1] > 0)


def boosted(seed: int, *, rounds: int = 8, columns: int = 6) -> lightgbm.Booster:
    return lightgbm.train(
        {
            "objective": "multiclass", "num_class": 3, "num_leaves": 5, "seed": seed,
            "bagging_fraction": 0.7, "bagging_freq": 1, "extra_trees": seed % 2 == 1,
            "num_threads": 1, "verbose": -1,
        },
        lightgbm.Dataset(TABLE[:, :columns], LABEL),
        num_boost_round=rounds,
    )  # fmt: skip


def scores(booster: lightgbm.Booster, rounds: int | None = None) -> np.ndarray:
    return np.asarray(booster.predict(TABLE, raw_score=True, num_iteration=rounds))


def test_the_scores_of_many_are_their_mean(tmp_path) -> None:
    members = [boosted(seed) for seed in range(3)]
    joint = averaged(members)
    np.testing.assert_allclose(scores(joint), np.mean([*map(scores, members)], axis=0), atol=1e-12)
    two_rounds = np.mean([scores(member, 2) for member in members], axis=0)
    np.testing.assert_allclose(scores(joint, 6), two_rounds, atol=1e-12)
    np.testing.assert_allclose(BoostedTrees.of(joint).predict(TABLE), joint.predict(TABLE))
    joint.save_model(str(tmp_path / "joint.txt"))
    read = lightgbm.Booster(model_file=str(tmp_path / "joint.txt"))
    np.testing.assert_array_equal(read.predict(TABLE), joint.predict(TABLE))


def test_one_that_stopped_early_adds_nothing_more() -> None:
    long, short = boosted(0), boosted(1, rounds=3)
    expected = (scores(long) + scores(short)) / 2
    np.testing.assert_allclose(scores(averaged([short, long])), expected, atol=1e-12)


def test_only_alike_models_are_averaged() -> None:
    with pytest.raises(ValueError, match=r"not of \[\(3, 6\), \(3, 4\)\]"):
        averaged([boosted(0), boosted(0, columns=4)])
    with pytest.raises(ValueError, match="not of"):
        averaged([])
