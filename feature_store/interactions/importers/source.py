"""Where an import comes from: a folder, a file, a zip archive or a prefix, as named files."""

import gzip
import zipfile
import zlib
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO

_ARCHIVES = {".zip", ".whl"}
_FOLDER_DEPTH = 2  # enough for {item type}/train.txt; a whole home folder is never walked


class Source:
    """Named files under one path; those whose names end in .gz are unzipped as they are read.

    Args:
        path: a folder (its files and those one folder below), one file, a .zip or .whl archive,
            or a prefix: `data/ml-100k` for `data/ml-100k.inter`, `data/ml-100k.item`.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a broken archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        if path.is_dir():
            self._folder = path
            self.names = _files_below(path)
        elif path.suffix in _ARCHIVES and path.is_file():
            self._archive = _open_archive(path)
            self.names = tuple(n for n in self._archive.namelist() if not n.endswith("/"))
        else:
            self._folder = path.parent
            self.names = _files_at(path)

    @property
    def is_archive(self) -> bool:
        """Whether the files lie in a zip archive, where folders above them mean nothing."""
        return self._archive is not None

    def find(self, pattern: str) -> tuple[str, ...]:
        """The files whose last part matches `pattern` (`*.inter`), or does so but for a `.gz`."""
        return tuple(name for name in self.names if fnmatch(_plain(name), pattern))

    def nearest(self, pattern: str) -> tuple[str, ...]:
        """Of the files that `find` finds, those with the fewest folders above them."""
        found = self.find(pattern)
        depth = min((name.count("/") for name in found), default=0)
        return tuple(name for name in found if name.count("/") == depth)

    def one(self, pattern: str) -> str:
        """The one file that matches `pattern`, or the one nearest to the top.

        Raises:
            ValueError: there is none, or more than one.
        """
        found = self.nearest(pattern)
        if len(found) != 1:
            what = f"holds several: {', '.join(found[:5])}" if found else "holds none"
            raise ValueError(f"expected one {pattern} in {self.path}; it {what}")
        return found[0]

    def optional(self, pattern: str) -> str | None:
        """The one file that matches `pattern`, or None; several are an error as in `one`."""
        return self.one(pattern) if self.find(pattern) else None

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            ValueError: the file is broken.
        """
        return self._read(name, -1)

    def head(self, name: str, *, size_bytes: int = 1 << 16) -> bytes:
        """The beginning of a file; ValueError as in `read`."""
        return self._read(name, size_bytes)

    def _read(self, name: str, size_bytes: int) -> bytes:
        try:
            with self._open(name) as raw:
                if not name.endswith(".gz"):
                    return raw.read(size_bytes)
                with gzip.GzipFile(fileobj=raw) as unzipped:
                    return unzipped.read(size_bytes)
        except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{name} in {self.path} is broken: {error}") from error

    def _open(self, name: str) -> IO[bytes]:
        if self._archive is not None:
            return self._archive.open(name)
        return (self._folder / name).open("rb")


def folder_of(name: str) -> str:
    """The folder of a file of a source, "" at the top."""
    parent = str(PurePosixPath(name).parent)
    return "" if parent == "." else parent


def _plain(name: str) -> str:
    return PurePosixPath(name).name.removesuffix(".gz")


def _files_below(folder: Path) -> tuple[str, ...]:
    patterns = ("/".join("*" * depth) for depth in range(1, _FOLDER_DEPTH + 1))
    return tuple(
        path.relative_to(folder).as_posix()
        for pattern in patterns
        for path in sorted(folder.glob(pattern))
        if path.is_file() and not path.name.startswith(".")
    )


def _files_at(path: Path) -> tuple[str, ...]:
    if path.is_file():
        return (path.name,)
    names = tuple(found.name for found in sorted(path.parent.glob("*")) if found.is_file())
    names = tuple(name for name in names if path.name and name.startswith(f"{path.name}."))
    if not names:
        raise FileNotFoundError(f"{path}: no such folder, file, archive or prefix")
    return names


def _open_archive(path: Path) -> zipfile.ZipFile:
    try:
        # From memory: no handle stays open, and importing takes the whole of it anyway.
        return zipfile.ZipFile(BytesIO(path.read_bytes()))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no zip archive: {error}") from error
