from pathlib import Path

import pytest

from feature_store.interactions.importers import IMPORTERS, import_dataset
from feature_store.interactions.rejects import RejectPolicy, Rejects, TooManyRejects


def test_an_unknown_format_is_answered_with_the_known(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown format recbowl; expected auto, recbole, movie"):
        import_dataset(tmp_path, format="recbowl")


def test_what_is_not_recognised_is_answered_with_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="in no known format") as raised:
        import_dataset(tmp_path)
    for importer in IMPORTERS:
        assert f"{importer.name}: {importer.looks_for}" in str(raised.value)


def test_two_possible_formats_are_both_named(tmp_path: Path) -> None:
    (tmp_path / "u.data").write_text("1\t1\t4\t5\n")
    (tmp_path / "train.txt").write_text("0 1 2\n")
    with pytest.raises(ValueError, match="could be movielens or lightgcn; say which with --format"):
        import_dataset(tmp_path)
    assert import_dataset(tmp_path, format="lightgcn").interactions.height == 2


def test_nothing_there_and_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        import_dataset(tmp_path / "nowhere")
    (tmp_path / "interactions.csv").write_text("user_id,item_id\n")
    with pytest.raises(ValueError, match=r"holds no interaction \(tabular\)"):
        import_dataset(tmp_path)


@pytest.mark.parametrize("name", [importer.name for importer in IMPORTERS])
def test_every_importer_says_what_it_misses(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=r"expected .*none|expected .*no train.txt"):
        import_dataset(tmp_path, format=name)


def test_too_many_rejects_stop_an_import_and_are_kept(tmp_path: Path) -> None:
    rows = "".join(f"u{n},i{n}\n" for n in range(98))
    (tmp_path / "interactions.csv").write_text("user_id,item_id\n" + rows + "a,\n,b\n")
    path = tmp_path / "rejects.jsonl"
    with pytest.raises(TooManyRejects, match=r"2 of 100 rows \(2.00%\)"):
        import_dataset(tmp_path, rejects=Rejects(path=path))
    assert len(path.read_text().splitlines()) == 2
    rejects = Rejects(policy=RejectPolicy(max_share=0.02), path=path)
    assert import_dataset(tmp_path, rejects=rejects).interactions.height == 98
