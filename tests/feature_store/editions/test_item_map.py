from pathlib import Path

import numpy as np
import pytest

from feature_store.editions.item_map import ItemMap
from feature_store.editions.layout import nearest, principal

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


def test_more_neighbours_stay_neighbours_than_on_the_principal_components():
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((30, 24))
    vectors = centres[rng.integers(0, 30, 600)] + 0.7 * rng.standard_normal((600, 24))
    drawn = ItemMap.of(vectors.astype(np.float32), np.ones(600, np.float32))

    def kept(xy: np.ndarray) -> float:
        apart = ((xy[:, None] - xy[None]) ** 2).sum(2)
        np.fill_diagonal(apart, np.inf)
        near = nearest(drawn.vectors, drawn.vectors, 10, skip_self=True)
        on_paper = np.argpartition(apart, 10, axis=1)[:, :10]
        pairs = zip(near, on_paper, strict=True)
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in pairs]))

    assert kept(drawn.xy) > 2 * kept(principal(drawn.vectors))


def test_a_map_is_kept_and_read_again(tmp_path: Path):
    vectors, of = groups()
    drawn = ItemMap.of(vectors, np.ones(len(of), np.float32), landmarks=150)
    drawn.save(tmp_path / "map.safetensors")
    read = ItemMap.load(tmp_path / "map.safetensors", vectors)
    assert read is not None
    for name in ("rows", "xy", "vectors"):
        np.testing.assert_array_equal(getattr(read, name), getattr(drawn, name))
    with pytest.raises(ValueError, match="other items"):
        ItemMap.load(tmp_path / "map.safetensors", vectors[:10])
    assert ItemMap.load(tmp_path / "none", vectors) is None


def test_a_map_follows_the_rows_of_a_changed_catalogue():
    vectors, of = groups()
    drawn = ItemMap.of(vectors, np.ones(len(of), np.float32))
    new_rows = np.arange(len(of))[::-1].copy()
    new_rows[7] = -1
    moved = drawn.renumbered(new_rows)
    assert 7 not in len(of) - 1 - moved.rows
    was = dict(zip(drawn.rows.tolist(), drawn.xy.tolist(), strict=True))
    for row, xy in zip(moved.rows.tolist(), moved.xy.tolist(), strict=True):
        assert was[len(of) - 1 - row] == xy
