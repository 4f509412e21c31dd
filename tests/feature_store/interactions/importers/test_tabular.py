import zipfile
from pathlib import Path

import polars as pl
import pytest

from feature_store.interactions.importers import TableMapping, TabularImporter, import_dataset
from feature_store.interactions.rejects import Rejects
from feature_store.interactions.schema import SchemaError

LOG = "user_id\titem_id\ttimestamp\na\tx\t2026-01-01\n"


def test_files_named_as_tables_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "interactions.tsv").write_text(LOG)
    (tmp_path / "items.csv").write_text('item_id,title,tags[]\nx,"Tea, hot",drink|leaf\n')
    pl.DataFrame(
        {"user_id": ["a"], "age": [30.0]}, {"user_id": pl.String, "age": pl.Float32}
    ).write_parquet(tmp_path / "users.parquet")
    dataset = import_dataset(tmp_path)
    assert dataset.items.rows() == [("x", "item", "Tea, hot", ["drink", "leaf"])]
    assert dataset.users is not None
    assert dataset.users.rows() == [("a", 30.0)]


def test_a_file_of_another_data_set_below_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "interactions.tsv").write_text(LOG)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "interactions.tsv").write_text(LOG)
    (tmp_path / "other" / "users.csv").write_text("user_id\nb\n")
    assert import_dataset(tmp_path).users is None
    (tmp_path / "interactions.tsv").unlink()
    with pytest.raises(ValueError, match="in no known format"):
        import_dataset(tmp_path)


def test_a_mapping_names_what_each_column_is(tmp_path: Path) -> None:
    (tmp_path / "info.dat").write_text(
        "anime_ids\tname\tgenre\ttype\tmembers\n1\tKimi, no\tDrama, School\tMovie\t200\n"
    )
    (tmp_path / "seen.dat").write_text("User_ID\tAnime_ID\n7\t1\n8\t1\n")
    (tmp_path / "rated.dat").write_text("User_ID\tAnime_ID\tFeedback\n7\t1\t9\n")
    (tmp_path / "users.csv").write_text("id;years;sex\n7;30;f\n")
    ids = {"User_ID": "user_id", "Anime_ID": "item_id"}
    importer = TabularImporter(
        [
            TableMapping(
                file="seen.dat", table="interactions", rename=ids, constants={"type": "seen"}
            ),
            TableMapping(
                file="rated.dat",
                table="interactions",
                rename=ids | {"Feedback": "weight"},
                constants={"type": "rating"},
            ),
            TableMapping(
                file="info.dat",
                table="items",
                rename={"anime_ids": "item_id", "type": "item_type"},
                text=("name",),
                categorical={"genre": ","},
            ),
            TableMapping(
                file="users.csv",
                table="users",
                rename={"id": "user_id", "years": "age"},
                numeric=("years",),
                categorical={"sex": ""},
                separator=";",
            ),
        ]
    )
    rejects = Rejects()
    dataset = import_dataset(tmp_path, format=importer, rejects=rejects)
    assert dataset.interactions.select("user_id", "item_id", "type", "weight").rows() == [
        ("7", "1", "seen", 1.0),
        ("8", "1", "seen", 1.0),
        ("7", "1", "rating", 9.0),
    ]
    assert dataset.items.rows() == [("1", "Movie", "Kimi, no", ["Drama", "School"])]
    assert dataset.users is not None
    assert dataset.users.rows() == [("7", 30.0, ["f"])]
    assert (rejects.total, rejects.count) == (5, 0)


def test_a_mapping_that_loses_a_column_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\na,x\n")
    mapping = TableMapping(
        file="log.csv", table="interactions", rename={"user": "user_id", "item": "user_id"}
    )
    with pytest.raises(SchemaError, match="two columns one name"):
        import_dataset(tmp_path, format=TabularImporter([mapping]))


def test_an_archive_may_hold_the_tables_in_a_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("set/interactions.tsv", LOG)
        archive.writestr("set/users.csv", "user_id\na\n")
        archive.writestr("other/users.csv", "user_id\nb\n")
    users = import_dataset(tmp_path / "set.zip").users
    assert users is not None
    assert users["user_id"].to_list() == ["a"]


def test_a_mapped_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item\na,x\n")
    mapping = TableMapping(file="log.csv", table="interactions", rename={"who": "user_id"})
    with pytest.raises(SchemaError, match=r"log.csv has no column who; it has user, item"):
        import_dataset(tmp_path, format=TabularImporter([mapping]))


def test_an_unknown_column_is_an_error_not_a_loss(tmp_path: Path) -> None:
    (tmp_path / "interactions.csv").write_text("user_id,item_id,mood\na,x,good\n")
    with pytest.raises(SchemaError, match=r"interactions.mood"):
        import_dataset(tmp_path)
