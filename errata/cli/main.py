"""`errata`: composes the command groups and turns failures into one line and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated

import click
import redis
import typer
from pydantic import ValidationError

from errata import __version__
from errata.cli import data, demo, doctor, registry, serve, train
from errata.console import err
from feature_store.online import EmbeddedRedisError
from feature_store.registry import RegistryError
from feature_store.vectors import FaissInstallationError

app = typer.Typer(
    help="Recommendations and traffic verdicts whose mistakes are corrected online, from memory.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
data.register(app)
train.register(app)
registry.register(app)
serve.register(app)
demo.register(app)
doctor.register(app)

_BAD_INPUT = (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
_FAILURES = (
    RegistryError,
    EmbeddedRedisError,
    FaissInstallationError,
    redis.RedisError,
    OSError,
)


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    del debug  # looked for before parsing, so that it also covers parsing
    if version:
        typer.echo(f"errata {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
    debug = "--debug" in arguments
    try:
        result = app(args=arguments, prog_name="errata", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return int(stop.exit_code)
    except click.ClickException as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        err.print("interrupted")
        return 130
    except BrokenPipeError:
        return 0
    except ValidationError as error:
        if debug:
            raise
        for each in error.errors():
            name = ".".join(map(str, each["loc"])) or error.title
            err.print(f"[red]error:[/red] {name}: {each['msg']}", highlight=False)
        return 2
    except _BAD_INPUT as error:
        if debug:
            raise
        return _complain(error, code=2)
    except _FAILURES as error:
        if debug:
            raise
        return _complain(error, code=1)


def _complain(error: Exception, *, code: int) -> int:
    err.print("[red]error:[/red]", str(error) or type(error).__name__, highlight=False, markup=True)
    return code
