"""`errata import`: foreign formats into the data contract."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from errata.cli.options import Json, MaxRejectShare
from errata.console import err, out, print_json

if TYPE_CHECKING:
    from feature_store.interactions.dataset import Dataset

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
        dataset = read_dataset(
            source, format=format, max_reject_share=max_reject_share, rejects_path=destination
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
    source: Path, *, format: str, max_reject_share: float, rejects_path: Path
) -> Dataset:
    """Import `source`; a word on standard error about rows that were left out."""
    from feature_store.interactions.importers import import_dataset
    from feature_store.interactions.rejects import RejectPolicy, Rejects

    rejects = Rejects(
        policy=RejectPolicy(max_share=max_reject_share), path=rejects_path / "rejects.jsonl"
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
    return dataset
