import numpy as np
import pytest

from feature_store.editions.item_map import ItemMap

GROUPS, EACH = 5, 40


def groups(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Items around five directions, and which direction each is of."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(GROUPS), EACH)
    vectors = np.eye(GROUPS, 12)[of] + 0.1 * rng.standard_normal((len(of), 12))
    return vectors.astype(np.float32), of


def test_what_is_alike_lies_together():
    vectors, of = groups()
    drawn = ItemMap.of(vectors, np.arange(len(of), 0, -1, dtype=np.float32))
    xy = drawn.xy[np.argsort(drawn.rows)]
    assert xy.min() >= 0
    assert xy.max() <= 1
    apart = np.linalg.norm(xy[:, None] - xy[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    assert (of[apart.argmin(1)] == of).mean() > 0.95


def test_the_same_seed_draws_the_same_map():
    vectors, of = groups()
    popularity = np.ones(len(of), np.float32)
    first, second = (ItemMap.of(vectors, popularity) for _ in range(2))
    np.testing.assert_array_equal(first.xy, second.xy)


def test_an_item_that_is_no_landmark_lies_among_those_it_is_like():
    vectors, of = groups()
    drawn = ItemMap.of(vectors, (np.arange(len(of)) % EACH < 30).astype(np.float32), landmarks=150)
    others = np.setdiff1d(np.arange(len(of)), drawn.rows)
    placed = drawn.place(vectors[others])
    nearest = np.linalg.norm(placed[:, None] - drawn.xy[None], axis=2).argmin(1)
    assert (of[drawn.rows[nearest]] == of[others]).mean() > 0.95


def test_regions_are_named_after_what_is_frequent_there():
    vectors, of = groups()
    drawn = ItemMap.of(vectors, np.ones(len(of), np.float32))
    words = [[f"group {of[row]}", "everywhere"] for row in drawn.rows]
    places = drawn.places(words)
    assert {each.name for each in places} <= {f"group {number}" for number in range(GROUPS)}
    for place in places:
        nearest = np.linalg.norm(drawn.xy - (place.x, place.y), axis=1).argmin()
        assert words[nearest][0] == place.name


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_few_items_have_a_map(n: int):
    drawn = ItemMap.of(np.ones((n, 4), np.float32), np.ones(n, np.float32))
    assert drawn.xy.shape == (n, 2)
    assert np.isfinite(drawn.xy).all()
