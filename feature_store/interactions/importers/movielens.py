"""MovieLens in its three layouts: `u.data` (100K), `ratings.dat` (1M, 10M), `ratings.csv` (later).

Formats: the README files at https://grouplens.org/datasets/movielens/. Every rating is an
interaction of type `rating` whose weight is the rating.
"""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from feature_store.interactions.dataset import Dataset, no_items
from feature_store.interactions.importers.delimited import read_delimited
from feature_store.interactions.importers.source import Source
from feature_store.interactions.importers.table import split_list, to_table
from feature_store.interactions.rejects import LINE, ROW, Rejects
from feature_store.interactions.schema import SchemaError

_RATINGS = ("user_id", "item_id", "weight", "timestamp")
_RATINGS_CSV = ("userId", "movieId", "rating", "timestamp")
_MOVIES_CSV = ("movieId", "title", "genres")
_NO_GENRES = "(no genres listed)"
_ITEM_100K = ("item_id", "title", "released", "video", "imdb")
_USER_100K = ("user_id", "age", "gender[]", "occupation[]", "zip_code[]")
_MOVIE_1M = ("item_id", "title", "genres[]")
_USER_1M = ("user_id", "gender[]", "age", "occupation[]", "zip_code[]")
_GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip


class MovieLensImporter:
    """A folder or archive as GroupLens publishes it, or its ratings file alone (.gz too)."""

    name = "movielens"
    looks_for = (
        "u.data, ratings.dat, or ratings.csv with the header userId,movieId,rating,timestamp"
    )

    def matches(self, path: Path) -> bool:
        """See `Importer.matches`."""
        source = Source(path)
        if source.find("u.data") or source.find("ratings.dat"):
            return True
        header = ",".join(_RATINGS_CSV).encode()
        return any(source.head(n).startswith(header) for n in source.find("ratings.csv"))

    def read(self, path: Path, rejects: Rejects) -> Dataset:
        """See `Importer.read`."""
        source = Source(path)
        if source.find("u.data"):
            return _read_100k(source, rejects)
        if source.find("ratings.dat"):
            return _read_1m(source, rejects)
        return _read_csv(source, rejects)


def _read_100k(source: Source, rejects: Rejects) -> Dataset:
    items, users = no_items(), None
    if name := source.optional("u.item"):
        columns = (*_ITEM_100K, *_GENRES_100K)
        raw = _read(source, name, rejects, separator="|", columns=columns)
        flagged = pl.concat_list(
            pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES_100K
        )
        raw = raw.select(LINE, ROW, "item_id", "title", genres=flagged.list.drop_nulls())
        items = _movies(raw, name, rejects)
    if name := source.optional("u.user"):
        raw = _read(source, name, rejects, separator="|", columns=_USER_100K)
        users = to_table("users", raw, file=name, rejects=rejects)
    name = source.one("u.data")
    ratings = _read(source, name, rejects, separator="\t", columns=_RATINGS)
    return _dataset(ratings, name, rejects, items=items, users=users)


def _read_1m(source: Source, rejects: Rejects) -> Dataset:
    items, users = no_items(), None
    if name := source.optional("movies.dat"):
        raw = _read(source, name, rejects, separator="::", columns=_MOVIE_1M)
        items = _movies(raw, name, rejects)
    if name := source.optional("users.dat"):
        raw = _read(source, name, rejects, separator="::", columns=_USER_1M)
        users = to_table("users", raw, file=name, rejects=rejects)
    name = source.one("ratings.dat")
    ratings = _read(source, name, rejects, separator="::", columns=_RATINGS)
    return _dataset(ratings, name, rejects, items=items, users=users)


def _read_csv(source: Source, rejects: Rejects) -> Dataset:
    items = no_items()
    if name := source.optional("movies.csv"):
        raw = _read_table(source, name, rejects, header=_MOVIES_CSV)
        genres = split_list("genres", "|").list.set_difference([_NO_GENRES])
        items = _movies(
            raw.select(LINE, ROW, "title", item_id="movieId", genres=genres), name, rejects
        )
    name = source.one("ratings.csv")
    ratings = _read_table(source, name, rejects, header=_RATINGS_CSV)
    ratings = ratings.select(LINE, ROW, **dict(zip(_RATINGS, _RATINGS_CSV, strict=True)))
    return _dataset(ratings, name, rejects, items=items)


def _dataset(
    ratings: pl.DataFrame,
    file: str,
    rejects: Rejects,
    *,
    items: pl.DataFrame,
    users: pl.DataFrame | None = None,
) -> Dataset:
    ratings = ratings.with_columns(type=pl.lit("rating"))
    interactions = to_table("interactions", ratings, file=file, rejects=rejects)
    return Dataset(interactions, items, users)


def _movies(raw: pl.DataFrame, file: str, rejects: Rejects) -> pl.DataFrame:
    return to_table(
        "items", raw.with_columns(item_type=pl.lit("movie")), file=file, rejects=rejects
    )


def _read(
    source: Source, name: str, rejects: Rejects, *, separator: str, columns: Sequence[str]
) -> pl.DataFrame:
    return read_delimited(
        source.read(name),
        file=name,
        rejects=rejects,
        separator=separator,
        columns=columns,
        encoding="latin-1",
    )


def _read_table(
    source: Source, name: str, rejects: Rejects, *, header: tuple[str, ...]
) -> pl.DataFrame:
    raw = read_delimited(source.read(name), file=name, rejects=rejects, separator=",", quoted=True)
    found = tuple(column for column in raw.columns if column not in (LINE, ROW))
    if found[: len(header)] != header:
        raise SchemaError(f"{name} has the header {','.join(found)}; expected {','.join(header)}")
    return raw
