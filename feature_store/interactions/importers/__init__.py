"""Foreign formats into a `Dataset`.

Enter at `import_dataset`. One file per format (`recbole`, `movielens`, `lightgcn`, `triples`,
`spotify_mpd`, `tabular`), each an `importer.Importer`; they share `source` (folders, archives and
gzip as named files), `delimited` (text to strings), `table` (strings to a table) and `times`.

Imports `dataset`, `schema` and `rejects` from the floor of the room, and nothing else of Errata.
"""

from pathlib import Path

import polars as pl

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.importers.importer import Importer
from feature_store.interactions.importers.lightgcn import LightGCNImporter
from feature_store.interactions.importers.movielens import MovieLensImporter
from feature_store.interactions.importers.recbole import RecBoleImporter
from feature_store.interactions.importers.spotify_mpd import SpotifyMPDImporter
from feature_store.interactions.importers.tabular import TableMapping, TabularImporter
from feature_store.interactions.importers.triples import TriplesImporter
from feature_store.interactions.rejects import Rejects

__all__ = ["IMPORTERS", "Importer", "TableMapping", "TabularImporter", "import_dataset"]

IMPORTERS: tuple[Importer, ...] = (
    RecBoleImporter(),
    MovieLensImporter(),
    LightGCNImporter(),
    TriplesImporter(),
    SpotifyMPDImporter(),
    TabularImporter(),
)


def import_dataset(
    path: str | Path, *, format: str | Importer = "auto", rejects: Rejects | None = None
) -> Dataset:
    """Read `path` in whichever format it is.

    Args:
        path: a folder, a file, a .zip or .whl archive, or a prefix of several files.
        format: the name of one of `IMPORTERS`, `auto` to recognise it by its files, or an
            importer of your own, such as `TabularImporter(mappings)`.
        rejects: collects the rows that cannot be read and says how many may be; by default 1 %.

    Raises:
        FileNotFoundError: nothing is at `path`.
        ValueError: an unknown or ambiguous format, or no interaction in it.
        SchemaError: a file lacks a column that the format requires.
        TooManyRejects: more rows were unreadable than `rejects` allows.
    """
    path = Path(path)
    rejects = rejects or Rejects()
    importer = _importer(path, format) if isinstance(format, str) else format
    try:
        dataset = importer.read(path, rejects)
    except (RuntimeError, OverflowError, RecursionError, pl.exceptions.PolarsError) as error:
        # A file that libraries choke on (an encrypted archive, broken Parquet) is bad input.
        raise ValueError(f"{path} could not be read as {importer.name}: {error}") from error
    rejects.settle()
    if dataset.interactions.is_empty():
        raise ValueError(f"{path} holds no interaction ({importer.name})")
    return dataset


def _importer(path: Path, format: str) -> Importer:
    if format != "auto":
        for importer in IMPORTERS:
            if importer.name == format:
                return importer
        names = ", ".join(importer.name for importer in IMPORTERS)
        raise ValueError(f"unknown format {format}; expected auto, {names}")
    matching = [importer for importer in IMPORTERS if importer.matches(path)]
    if len(matching) > 1:
        names = " or ".join(importer.name for importer in matching)
        raise ValueError(f"{path} could be {names}; say which with --format")
    if not matching:
        looked = "".join(f"\n  {i.name}: {i.looks_for}" for i in IMPORTERS)
        raise ValueError(f"{path} is in no known format; looked for{looked}")
    return matching[0]
