"""`errata keys`: who may ask the service what."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, cast, get_args

import typer
from rich.table import Table

from errata.cli.options import Json
from errata.console import err, out, print_json
from errata.settings import Settings
from services.access import ApiKey, Scope, issue, read_keys, write_keys

KeysFile = Annotated[
    Path | None, typer.Option("--file", help="The file of keys; ERRATA_API_KEYS by default.")
]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="API keys: hashed in a file that a running service reads again when it changes.",
        no_args_is_help=True,
    )
    app.add_typer(group, name="keys")

    @group.command()
    def create(
        name: Annotated[str, typer.Argument(help="Who will hold it.")],
        scope: Annotated[
            list[str], typer.Option(help="read, feedback or admin; may be given again.")
        ],
        requests_per_s: Annotated[
            float | None, typer.Option(help="Answers a second and process; no limit by default.")
        ] = None,
        days: Annotated[int | None, typer.Option(help="Expires after so many days.", min=1)] = None,
        file: KeysFile = None,
    ) -> None:
        """Make a key and print it, once: only its hash is kept.

        ERRATA_API_KEYS=keys.json errata keys create web --scope read --scope feedback
        """
        path = _path(file)
        kept = list(_existing(path))
        if any(key.name == name for key in kept):
            raise ValueError(f"there is a key '{name}' already: revoke it, or choose another name")
        if unknown := sorted(set(scope) - set(get_args(Scope))):
            raise ValueError(f"no scope {', '.join(unknown)}: there are read, feedback, admin")
        expires = datetime.now(UTC) + timedelta(days=days) if days else None
        secret, key = issue(
            name,
            [cast(Scope, each) for each in scope],
            requests_per_s=requests_per_s,
            expires=expires,
        )
        write_keys(path, [*kept, key])
        typer.echo(secret)
        err.print(f"kept its hash in {path}; the key itself is not shown again", highlight=False)

    @group.command("list")
    def list_keys(file: KeysFile = None, json: Json = False) -> None:
        """The keys, without what their holders send."""
        keys = read_keys(_path(file))
        if json:
            print_json([key.model_dump(mode="json", exclude={"sha256"}) for key in keys])
            return
        table = Table("name", "scopes", "requests/s", "expires")
        for key in keys:
            rate = "" if key.requests_per_s is None else f"{key.requests_per_s:g}"
            table.add_row(key.name, ", ".join(key.scopes), rate, str(key.expires or ""))
        out.print(table)

    @group.command()
    def revoke(
        name: Annotated[str, typer.Argument(help="Whose key.")], file: KeysFile = None
    ) -> None:
        """Make a key worthless; running services notice within a second."""
        path = _path(file)
        keys = read_keys(path)
        rest = [key for key in keys if key.name != name]
        if len(rest) == len(keys):
            raise ValueError(f"there is no key '{name}' in {path}")
        write_keys(path, rest)


def _path(file: Path | None) -> Path:
    path = file or Settings().api_keys
    if path is None:
        raise ValueError("name the file of keys: --file keys.json, or ERRATA_API_KEYS")
    return path


def _existing(path: Path) -> tuple[ApiKey, ...]:
    return read_keys(path) if path.exists() else ()
