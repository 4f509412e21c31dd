"""The files that a job reads, on local paths or in object stores."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict

from feature_store.storage import is_local, open_storage

TABLE_SUFFIXES = (".parquet", ".csv")
ROWS_AT_ONCE = 100_000


class InputFile(BaseModel):
    """A file as it was when the job began; another size or time makes another job.

    Attributes:
        url: a local path, or an fsspec URL.
        changed: what the store says of its last change.
    """

    model_config = ConfigDict(frozen=True)

    url: str
    bytes: int
    changed: str

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return PurePosixPath(self.url).name


def find_files(urls: Sequence[str], *, suffixes: tuple[str, ...]) -> tuple[InputFile, ...]:
    """Each file that is named; of a folder or a pattern, the files with one of `suffixes`.

    Raises:
        FileNotFoundError: nothing is there.
    """
    found: dict[str, InputFile] = {}
    for url in urls:
        fs, path = open_storage(url)
        if "*" in path:
            paths = sorted(fs.glob(path))
        elif fs.isdir(path):
            paths = sorted(each for each in fs.find(path) if each.lower().endswith(suffixes))
        else:
            paths = [path] if fs.exists(path) else []
        if not paths:
            raise FileNotFoundError(
                f"{url} does not exist, or holds nothing that ends with {', '.join(suffixes)}"
            )
        for each in paths:
            file = _describe(fs, each)
            found[file.url] = file
    return tuple(found.values())


def absolute(url: str) -> str:
    """The same place for a process that runs in another folder."""
    fs, path = open_storage(url)
    return path if is_local(fs) else url


@contextmanager
def local_copy(file: InputFile) -> Iterator[Path]:
    """The file itself where it is local, or a copy for the length of the block."""
    fs, path = open_storage(file.url)
    if is_local(fs):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="errata-") as folder:
        copy = Path(folder) / file.name
        fs.get_file(path, str(copy))
        yield copy


def read_rows(
    file: InputFile, columns: Sequence[str], *, optional: Sequence[str] = (), others: bool = False
) -> Iterator[pl.DataFrame]:
    """A table's rows in order, some at a time; in CSV every value is text.

    Args:
        file: Parquet or CSV.
        columns: that it must have.
        optional: that it may have.
        others: give all other columns too.

    Raises:
        ValueError: it is no such table, or lacks a column.
    """
    with local_copy(file) as path:
        try:
            table = (
                pl.scan_csv(path, infer_schema=False)
                if path.suffix == ".csv"
                else pl.scan_parquet(path, glob=False)
            )
            there = table.collect_schema().names()
            if missing := [name for name in columns if name not in there]:
                raise ValueError(
                    f"{file.url} has no column {', '.join(missing)}; it has {', '.join(there)}"
                )
            wanted = [name for name in there if others or name in columns or name in optional]
            yield from table.select(wanted).collect_batches(
                chunk_size=ROWS_AT_ONCE, maintain_order=True
            )
        except pl.exceptions.PolarsError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"{file.url} cannot be read as a table: {reason}") from error


def _describe(fs: Any, path: str) -> InputFile:
    info = fs.info(path)
    stamps = (str(info[key]) for key in ("mtime", "LastModified", "ETag", "etag") if key in info)
    url = path if is_local(fs) else fs.unstrip_protocol(path)
    return InputFile(url=url, bytes=int(info.get("size") or 0), changed=" ".join(stamps))
