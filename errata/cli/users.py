"""`errata users`: the pseudonyms that users are kept under."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.options import Json
from errata.console import err, out, print_json
from errata.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        help="Pseudonyms of users: ids hashed with a secret, which ERRATA_USER_KEY names.",
        no_args_is_help=True,
    )
    app.add_typer(group, name="users")

    @group.command()
    def key(file: Annotated[Path, typer.Argument(help="Must not exist yet.")]) -> None:
        """Draw a secret and write it to a file that its owner alone can read.

        Keep it: without it nobody finds a user again, and a lost one cannot be made again.

            errata users key user.key && export ERRATA_USER_KEY=user.key
        """
        from feature_store.pseudonyms import Pseudonyms

        try:
            handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise ValueError(
                f"{file} exists: under another key everybody would be a stranger"
            ) from error
        with os.fdopen(handle, "w") as written:
            written.write(secrets.token_urlsafe(32) + "\n")
        err.print(f"{file} holds the key {Pseudonyms.read(file).key_id}", highlight=False)

    @group.command()
    def pseudonym(
        user_ids: Annotated[
            list[str] | None, typer.Argument(help="Of whom; without any, a line of input each.")
        ] = None,
        json: Json = False,
    ) -> None:
        """Print what users are kept under, so that they can be joined with what Errata wrote.

        errata users pseudonym ann@example.com
        """
        pseudonyms = Settings().pseudonyms
        if pseudonyms is None:
            raise ValueError(
                "users are kept under their ids: ERRATA_USER_KEY names no secret to hash them with"
            )
        asked = user_ids or (line.rstrip("\n") for line in sys.stdin)
        if json:
            print_json({each: pseudonyms(each) for each in asked})
            return
        for each in asked:
            out.print(pseudonyms(each), highlight=False, soft_wrap=True)
