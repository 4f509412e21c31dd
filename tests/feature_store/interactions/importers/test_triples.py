from pathlib import Path

import pytest

from feature_store.interactions.importers import import_dataset
from feature_store.interactions.rejects import RejectPolicy, Rejects


def write(folder: Path, train: str, test: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.txt").write_text(train)
    (folder / "test.txt").write_text(test)
    (folder / "test_original.txt").write_text("9\t9\t1\n")


def test_each_folder_is_an_item_type_with_ids_of_its_own(tmp_path: Path) -> None:
    write(tmp_path / "phone", "0\t5\t1\n1\t5\t2\n", "0\t6\t1\n")
    write(tmp_path / "tablet", "0 5 1\n")
    dataset = import_dataset(tmp_path)
    assert dataset.interactions.select("user_id", "item_id", "split", "weight").rows() == [
        ("0", "phone/5", "train", 1.0),
        ("1", "phone/5", "train", 2.0),
        ("0", "tablet/5", "train", 1.0),
        ("0", "phone/6", "test", 1.0),
    ]
    assert dataset.summary().item_types == {"phone": 2, "tablet": 1}
    assert dataset.items_added == 0


def test_one_folder_keeps_its_ids_and_is_read_when_named(tmp_path: Path) -> None:
    write(tmp_path, "0\t5\t1\n")
    dataset = import_dataset(tmp_path, format="triples")
    assert dataset.items.rows() == [("5", "item")]
    assert dataset.summary().splits == {"train": 1}


def test_other_lines_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, "0\t5\t1\n0\t5\n0\t5\t0\n")
    rejects = Rejects(policy=RejectPolicy(max_share=1))
    assert import_dataset(tmp_path, format="triples", rejects=rejects).interactions.height == 1
    assert rejects.count == 2


def test_without_a_train_file_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no train.txt is there"):
        import_dataset(tmp_path, format="triples")


def test_two_item_types_of_one_shop(data_sets: Path) -> None:
    summary = import_dataset(data_sets / "recsys/amazon-phone-electronics").summary()
    assert summary.users == 3_325
    assert summary.splits["train"] == 50_407 + 115_554
    assert set(summary.item_types) == {"phone_electronic", "electronic_phone"}
