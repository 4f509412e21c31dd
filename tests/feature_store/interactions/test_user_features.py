import numpy as np
import polars as pl

from feature_store.interactions.user_features import UserFeatureSpec

USERS = pl.DataFrame(
    {
        "user_id": ["a", "b", "c"],
        "job": [["cook"], ["cook", "poet"], None],
        "age": [20.0, 40.0, None],
    },
    schema={"user_id": pl.String, "job": pl.List(pl.String), "age": pl.Float32},
)


def test_features_are_one_hot_and_standardised_and_absent_is_average():
    spec = UserFeatureSpec.fit(USERS)
    assert spec.vocabulary == {"job": ("cook", "poet")}
    encoded = spec.of_table(USERS, ["b", "a", "c", "nobody"])
    np.testing.assert_allclose(encoded, [[1, 1, 1], [1, 0, -1], [0, 0, 0], [0, 0, 0]])


def test_a_user_described_in_a_request_is_encoded_alike():
    spec = UserFeatureSpec.fit(USERS)
    np.testing.assert_allclose(spec.encode([{"job": "poet", "age": 40}]), [[0, 1, 1]])
    np.testing.assert_allclose(spec.encode([{"job": ["pilot"], "unknown": 3}]), [[0, 0, 0]])


def test_no_users_table_gives_no_features():
    spec = UserFeatureSpec.fit(None)
    assert spec.dimension == 0
    assert spec.of_table(None, ["a"]).shape == (1, 0)


def test_values_of_the_wrong_kind_are_missing_values():
    spec = UserFeatureSpec.fit(USERS)
    odd = [
        {"age": "abc"},
        {"age": [1]},
        {"age": float("nan")},
        {"age": 10**400},
        {"job": 5},
        {"job": [["cook"]]},
        {"job": [{"a": 1}]},
        {"age": None},
    ]
    np.testing.assert_array_equal(spec.encode(odd), np.zeros((len(odd), 3)))
    assert spec.encode([{"age": 1e20}])[0, 2] == 5.0
