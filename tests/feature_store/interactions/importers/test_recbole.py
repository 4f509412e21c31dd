import zipfile
from pathlib import Path

import pytest

from feature_store.interactions.importers import import_dataset
from feature_store.interactions.rejects import RejectPolicy, Rejects
from feature_store.interactions.schema import SchemaError

FILES = {
    "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "196\t242\t3\t881250949\n186\t302\t4\t891717742\n",
    "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tKolya or so\t1996\tComedy Drama\n1\tToy Story\t1995\tAnimation\n",
    "user": "user_id:token\tage:token\tscore:float\n196\t49\t0.5\n",
    "kg": "head_id:token\trelation_id:token\ttail_id:token\n"
    "m.1\tfilm.actor\tm.9\nm.9\tactor.film\tm.1\nm.7\tlikes\t242\n",
    "link": "item_id:token\tentity_id:token\n242\tm.1\n",
}


def write(folder: Path, **changed: str) -> Path:
    for kind, text in (FILES | changed).items():
        (folder / f"tiny.{kind}").write_text(text)
    return folder


def test_the_headers_types_become_the_columns_meaning(tmp_path: Path) -> None:
    dataset = import_dataset(write(tmp_path))
    assert dataset.interactions.select("user_id", "item_id", "type", "weight").rows() == [
        ("196", "242", "rating", 3.0),
        ("186", "302", "rating", 4.0),
    ]
    assert dataset.interactions["timestamp"][0].year == 1997
    assert dataset.items.rows() == [
        ("242", "item", "Kolya or so", ["1996"], ["Comedy", "Drama"]),
        ("1", "item", "Toy Story", ["1995"], ["Animation"]),
        ("302", "item", None, None, None),
    ]
    assert dataset.items_added == 1
    assert dataset.users is not None
    assert dataset.users.rows() == [("196", ["49"], 0.5)]


def test_linked_entities_become_items_and_others_never_pass_for_one(tmp_path: Path) -> None:
    dataset = import_dataset(write(tmp_path))
    assert dataset.links is not None
    assert dataset.links.rows() == [
        ("242", "film.actor", "m.9"),
        ("m.9", "actor.film", "242"),
        ("m.7", "likes", "entity:242"),
    ]


@pytest.mark.parametrize("name", ["tiny.zip", "tiny-1.0-py3-none-any.whl"])
def test_an_archive_is_read_in_place(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        for kind, text in FILES.items():
            archive.writestr(f"package/example/tiny/tiny.{kind}", text)
        archive.writestr("package/__init__.py", "")
    (tmp_path / "folder").mkdir()
    folder = write(tmp_path / "folder")
    assert import_dataset(tmp_path / name).fingerprint() == import_dataset(folder).fingerprint()


def test_a_prefix_chooses_among_data_sets(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "other.inter").write_text("user_id:token\titem_id:token\na\tb\n")
    with pytest.raises(ValueError, match=r"several: other.inter, tiny.inter"):
        import_dataset(tmp_path)
    other = import_dataset(tmp_path / "other").interactions
    assert other.select("type", "weight").rows() == [("interaction", 1.0)]


def test_ratings_that_are_no_weight_are_rejected(tmp_path: Path) -> None:
    write(tmp_path, inter=FILES["inter"] + "1\t1\t0\t5\n1\t1\t\t5\n1\t1\t3\n")
    rejects = Rejects(policy=RejectPolicy(max_share=1))
    dataset = import_dataset(tmp_path, rejects=rejects)
    assert dataset.interactions.height == 2
    assert [reject.line for reject in rejects.first() if reject.file == "tiny.inter"] == [6, 4, 5]


def test_a_header_without_types_is_explained(tmp_path: Path) -> None:
    write(tmp_path, inter="user_id\titem_id\na\tb\n")
    with pytest.raises(SchemaError, match=r"tiny.inter: user_id in the header; expected NAME:TYPE"):
        import_dataset(tmp_path)
    write(tmp_path, inter="uid:token\titem_id:token\na\tb\n")
    with pytest.raises(SchemaError, match=r"tiny.inter has no column user_id; it has uid, item_id"):
        import_dataset(tmp_path)
    write(tmp_path, inter="user_id:token\titem_id:token\titem_id:float\na\tb\t1\n")
    with pytest.raises(SchemaError, match=r"tiny.inter has two columns item_id"):
        import_dataset(tmp_path)


def test_what_has_no_place_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import_dataset(write(tmp_path, item="item_id:token\tprice:float\n242\t1.5\n"))
    assert "tiny.item: left out price:float" in caplog.text


def test_movielens_100k(data_sets: Path) -> None:
    summary = import_dataset(data_sets / "streams/ml-100k").summary()
    assert (summary.interactions, summary.users, summary.items) == (100_000, 943, 1_682)
    assert summary.first is not None
    assert summary.first.year == 1997
