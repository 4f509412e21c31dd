"""`user item 1` a line, in `train.txt` and `test.txt`: a folder for each item type, or just one."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.importers.delimited import read_delimited
from feature_store.interactions.importers.lightgcn import SPLIT_FILES
from feature_store.interactions.importers.source import Source, folder_of
from feature_store.interactions.importers.table import to_table
from feature_store.interactions.rejects import Rejects

_COLUMNS = ("user_id", "item_id", "weight")


class TriplesImporter:
    """Folders with a `train.txt` each: users are shared, items are not.

    With several folders an item's type is its folder's name and its id `FOLDER/ID`, since each
    folder numbers its items from 0. The third column is the weight.
    """

    name = "triples"
    looks_for = "two or more folders with a train.txt each, `user item 1` a line"

    def matches(self, path: Path) -> bool:
        """See `Importer.matches`; one folder alone is only read when the format is named."""
        return len(_folders(Source(path))) > 1

    def read(self, path: Path, rejects: Rejects) -> Dataset:
        """See `Importer.read`."""
        source = Source(path)
        folders = _folders(source)
        if not folders:
            raise ValueError(f"expected {self.looks_for}, in {path}; no train.txt is there")
        parts = list(_parts(source, folders, rejects))
        log = pl.concat(parts)
        items = log.select("item_id", "item_type").unique(maintain_order=True)
        return Dataset(log.drop("item_type"), items)


def _folders(source: Source) -> list[str]:
    return sorted({folder_of(name) for name in source.nearest("train.txt")})


def _parts(source: Source, folders: list[str], rejects: Rejects) -> Iterator[pl.DataFrame]:
    for file, split in SPLIT_FILES.items():
        for name in source.find(file):
            folder = folder_of(name)
            if folder not in folders:
                continue
            data = source.read(name)
            separator = "\t" if b"\t" in data[:1024] else " "
            raw = read_delimited(
                data, file=name, rejects=rejects, separator=separator, columns=_COLUMNS
            )
            raw = raw.with_columns(split=pl.lit(split))
            part = to_table("interactions", raw, file=name, rejects=rejects)
            kind = folder.rpartition("/")[2] if len(folders) > 1 else "item"
            if len(folders) > 1:
                part = part.with_columns(item_id=pl.lit(f"{kind}/") + pl.col("item_id"))
            yield part.with_columns(item_type=pl.lit(kind))
