from pathlib import Path

import pytest

from feature_store.interactions.importers import import_dataset
from feature_store.interactions.rejects import RejectPolicy, Rejects


def write(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text, newline="")
    return folder


def test_a_line_is_a_user_and_their_items(tmp_path: Path) -> None:
    dataset = import_dataset(write(tmp_path, train="0 5 6\n1 5\n", test="0 7\n", valid="1 6\n"))
    assert dataset.interactions.select("user_id", "item_id", "split").rows() == [
        ("0", "5", "train"),
        ("0", "6", "train"),
        ("1", "5", "train"),
        ("1", "6", "validation"),
        ("0", "7", "test"),
    ]
    assert dataset.interactions["timestamp"].null_count() == 5
    assert dataset.summary().items == 3


def test_line_ends_spaces_and_users_without_items_do_not_matter(tmp_path: Path) -> None:
    dataset = import_dataset(write(tmp_path, train="0 5 6\r\n\r\n1  5 \r\n2\r\n3 \n4\t8"))
    pairs = dataset.interactions.select("user_id", "item_id").rows()
    assert pairs == [("0", "5"), ("0", "6"), ("1", "5"), ("4", "8")]


def test_lines_that_are_not_integers_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, train="0 5 6\n1 5 x\nuser item\n-1 5\n")
    rejects = Rejects(policy=RejectPolicy(max_share=1))
    dataset = import_dataset(tmp_path, rejects=rejects)
    assert dataset.interactions.height == 2
    assert [reject.line for reject in rejects.first()] == [2, 3, 4]
    assert rejects.total == 4


def test_triples_are_not_read_as_two_items(tmp_path: Path) -> None:
    write(tmp_path, train="0\t17732\t1\n0\t17719\t1\n")
    with pytest.raises(ValueError, match="in no known format"):
        import_dataset(tmp_path)
    assert import_dataset(tmp_path, format="triples").interactions.height == 2


def test_a_file_beside_and_an_empty_set(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    write(tmp_path / "old", train="9 9\n")
    assert import_dataset(write(tmp_path, train="0 5\n")).interactions.height == 1
    with pytest.raises(ValueError, match=r"holds no interaction \(lightgcn\)"):
        import_dataset(write(tmp_path, train=""))


@pytest.mark.parametrize(
    ("folder", "users", "items", "train", "test"),
    [("gowalla", 29_858, 40_981, 810_128, 217_242), ("ml-1m", 6_022, 3_043, 796_244, 99_455)],
)
def test_published_splits(
    data_sets: Path, folder: str, users: int, items: int, train: int, test: int
) -> None:
    rejects = Rejects()
    summary = import_dataset(data_sets / "recsys" / folder, rejects=rejects).summary()
    assert (summary.users, summary.items) == (users, items)
    assert summary.splits == {"train": train, "test": test}
    assert rejects.count == 0
