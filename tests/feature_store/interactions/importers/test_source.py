import gzip
import zipfile
from pathlib import Path

import pytest

from feature_store.interactions.importers.source import Source, folder_of


def write(path: Path, data: bytes = b"data") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_a_folder_is_seen_one_folder_deep_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("a.txt", ".b.txt", "sub/c.txt", "sub/deeper/d.txt"):
        write(tmp_path / name)
    assert Source(tmp_path).names == ("a.txt", "sub/c.txt")


def test_one_file_and_a_prefix(tmp_path: Path) -> None:
    for name in ("ml.inter", "ml.item", "mlx.inter", "other.inter"):
        write(tmp_path / name)
    assert Source(tmp_path / "mlx.inter").names == ("mlx.inter",)
    assert Source(tmp_path / "ml").names == ("ml.inter", "ml.item")


@pytest.mark.parametrize("name", ["set.zip", "set-1-py3-none-any.whl"])
def test_an_archive_is_read_in_place(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.mkdir("deep")
        archive.writestr("deep/er/still/ratings.csv.gz", gzip.compress(b"data"))
    source = Source(tmp_path / name)
    assert source.one("ratings.csv") == "deep/er/still/ratings.csv.gz"
    assert source.read(source.one("ratings.csv")) == b"data"
    assert source.head(source.one("ratings.csv"), size_bytes=2) == b"da"


def test_the_file_nearest_to_the_top_is_the_one(tmp_path: Path) -> None:
    for name in ("old/u.data", "u.data"):
        write(tmp_path / name)
    assert Source(tmp_path).one("u.data") == "u.data"
    assert Source(tmp_path).optional("u.item") is None


def test_none_and_several_are_told_apart(tmp_path: Path) -> None:
    for name in ("a.inter", "b.inter"):
        write(tmp_path / name)
    with pytest.raises(ValueError, match=r"holds several: a.inter, b.inter"):
        Source(tmp_path).one("*.inter")
    with pytest.raises(ValueError, match="holds none"):
        Source(tmp_path).one("*.kg")
    with pytest.raises(FileNotFoundError, match="no such folder, file, archive or prefix"):
        Source(tmp_path / "c")


def test_broken_archives_are_named(tmp_path: Path) -> None:
    write(tmp_path / "set.zip", b"PK\3\4 and no more")
    with pytest.raises(ValueError, match=r"set.zip is no zip archive"):
        Source(tmp_path / "set.zip")
    cut = gzip.compress(b"data" * 1000)[:-12]
    write(tmp_path / "cut.csv.gz", cut)
    write(tmp_path / "fake.csv.gz", b"no gzip")
    for name in ("cut.csv.gz", "fake.csv.gz"):
        with pytest.raises(ValueError, match=f"{name} in .* is broken"):
            Source(tmp_path).read(name)


def test_folder_of() -> None:
    assert folder_of("a/b/c.txt") == "a/b"
    assert folder_of("c.txt") == ""
