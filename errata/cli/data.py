"""`errata import`: foreign formats into the data contract."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from errata.cli.options import Json, MaxRejectShare
from errata.console import err, out, print_json
from errata.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from feature_store.interactions.dataset import Dataset
    from feature_store.pseudonyms import Pseudonyms

_FORMATS = "recbole, movielens, lightgcn, triples, spotify_mpd, tabular"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("import")
    def import_(
        source: Annotated[Path, typer.Argument(help="A folder, a file, a .zip or a .whl.")],
        destination: Annotated[Path, typer.Argument(help="Folder for the Parquet tables.")],
        format: Annotated[str, typer.Option(help=f"auto, {_FORMATS}.")] = "auto",
        max_reject_share: MaxRejectShare = 0.01,
        json: Json = False,
    ) -> None:
        """Import interactions, items, users and links.

        Reads RecBole atomic files, MovieLens (100k, 1M, 20M and later), LightGCN train.txt and
        test.txt, Spotify's Million Playlist JSON, and CSV or Parquet tables in the product's own
        names. Rows that cannot be read are counted, shown, and kept in rejects.jsonl.

            errata import ml-latest-small/ data/
        """
        for each in (destination, *destination.parents):
            if each.exists() and not each.is_dir():
                raise ValueError(
                    f"{each} is there already and is no folder: the tables go into a folder, which "
                    "is made where there is none. Name another one, or move that away"
                )
        dataset = read_dataset(
            source,
            format=format,
            max_reject_share=max_reject_share,
            rejects_path=destination,
            pseudonyms=Settings().pseudonyms,
        )
        dataset.write(destination)
        summary = asdict(dataset.summary())
        if json:
            print_json(summary | {"fingerprint": dataset.fingerprint()})
            return
        table = Table("", str(destination), show_header=True)
        for name, value in summary.items():
            if isinstance(value, dict):
                value = ", ".join(f"{key} {count:,}" for key, count in value.items())
            table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value or "none"))
        out.print(table)


def read_dataset(
    source: Path,
    *,
    format: str,
    max_reject_share: float,
    rejects_path: Path,
    pseudonyms: Pseudonyms | None,
) -> Dataset:
    """Import `source`; a word on standard error about rows that were left out.

    Users are named by `pseudonyms`, where there are some, and no row that was left out is kept.
    """
    from feature_store.interactions.importers import import_dataset
    from feature_store.interactions.rejects import RejectPolicy, Rejects

    rejects = Rejects(
        policy=RejectPolicy(max_share=max_reject_share),
        path=rejects_path / "rejects.jsonl",
        rows=pseudonyms is None,
    )
    dataset = import_dataset(source, format=format, rejects=rejects)
    if rejects.count:
        err.print(
            f"[yellow]{rejects.count:,} of {rejects.total:,} rows were unreadable[/yellow] and are "
            f"in {rejects.path}:",
            highlight=False,
        )
        for each in rejects.first(10):
            err.print(f"  {each.file}:{each.line}: {each.reason}", highlight=False, markup=False)
    if pseudonyms is None:
        return dataset
    return type(dataset)(
        interactions=_renamed(dataset.interactions, pseudonyms),
        items=dataset.items,
        users=None if dataset.users is None else _renamed(dataset.users, pseudonyms),
        links=dataset.links,
    )


def read_feedback(settings: Settings) -> pl.DataFrame:
    """What `POST /v1/feedback` has collected, of users by the names that tables give them.

    What was collected under another key is left out: whom it names, nobody can tell.
    """
    from feature_store.offline import FeedbackLog
    from feature_store.pseudonyms import SHAPE

    feedback = FeedbackLog(settings.offline_directory / "feedback").read()
    if (pseudonyms := settings.pseudonyms) is None:
        return feedback
    key = feedback["user_id"].str.extract(f"^{SHAPE}$", 1)
    known = feedback.filter(key.is_null() | (key == pseudonyms.key_id))
    if lost := feedback.height - known.height:
        err.print(
            f"[yellow]{lost:,} outcomes are left out[/yellow]: they name users by another key than "
            f"{pseudonyms.key_id}",
            highlight=False,
        )
    return _renamed(known, pseudonyms)


def _renamed(table: pl.DataFrame, pseudonyms: Pseudonyms) -> pl.DataFrame:
    return table.with_columns(user_id=pseudonyms.column(table["user_id"]))
