"""The split that LightGCN and its successors publish: `user item item …` a line, train and test.

Format: https://github.com/kuandeng/LightGCN/tree/master/Data. Ids are integers.
"""

import re
from pathlib import Path

import polars as pl

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.importers.delimited import read_lines
from feature_store.interactions.importers.source import Source, folder_of
from feature_store.interactions.rejects import ROW, Rejects

SPLIT_FILES = {"train.txt": "train", "valid.txt": "validation", "test.txt": "test"}

_INTEGERS = r"^\s*\d+(?:\s+\d+)*\s*$"
_TRIPLES = re.compile(rb"(?:\s*\d+\s+\d+\s+1[ \t\r]*(?:\n|\Z))+")


class LightGCNImporter:
    """A folder or archive with `train.txt`, and `test.txt` and `valid.txt` where there are any.

    The files fill the column `split`. A user without items adds nothing.
    """

    name = "lightgcn"
    looks_for = "train.txt (with test.txt, valid.txt), `user item item …` a line"

    def matches(self, path: Path) -> bool:
        """See `Importer.matches`; `user item 1` lines are left to the format `triples`."""
        source = Source(path)
        found = source.nearest("train.txt")
        return len(found) == 1 and not _are_triples(source.head(found[0]))

    def read(self, path: Path, rejects: Rejects) -> Dataset:
        """See `Importer.read`."""
        source = Source(path)
        folder = folder_of(source.one("train.txt"))
        parts = [
            _read(source, name, rejects).with_columns(split=pl.lit(split))
            for file, split in SPLIT_FILES.items()
            for name in source.find(file)
            if folder_of(name) == folder
        ]
        return Dataset(pl.concat(parts))


def _are_triples(head: bytes) -> bool:
    complete = head[: head.rfind(b"\n") + 1] or head
    return _TRIPLES.fullmatch(complete) is not None


def _read(source: Source, name: str, rejects: Rejects) -> pl.DataFrame:
    lines = read_lines(source.read(name), file=name, rejects=rejects)
    whole = pl.col(ROW).str.contains(_INTEGERS)
    reason = "not integers separated by spaces"
    lines = rejects.keep(lines, whole, file=name, reason=reason)
    ids = pl.col(ROW).str.strip_chars()
    if lines.select(ids.str.contains(r"\s\s|[^\d ]").any()).item():
        ids = ids.str.replace_all(r"\s+", " ")
    users = lines.select(ids.str.split(" ").alias("ids")).filter(pl.col("ids").list.len() > 1)
    return users.select(
        user_id=pl.col("ids").list.first(), item_id=pl.col("ids").list.slice(1)
    ).explode("item_id")
