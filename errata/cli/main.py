"""`errata`: composes the command groups and turns failures into one line and an exit code."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import Annotated

import typer
from pydantic import ValidationError

from errata import __version__
from errata.cli import (
    classify,
    data,
    demo,
    demo_traffic,
    doctor,
    flows,
    forget,
    index,
    keys,
    memory,
    registry,
    retrain,
    score,
    serve,
    train,
    users,
)
from errata.cli.interrupt import INTERRUPTED
from errata.console import err

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
retrain.register(app)
index.register(app)
score.register(app)
serve.register(app)
flows.register(app)
memory.register(app)
classify.register(app)
demo.register(app)
demo_traffic.register(app)
keys.register(app)
users.register(app)
forget.register(app)
doctor.register(app)

# Typer carries its own copy of click, or imports the real one: ask it for the class.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]
_BAD_INPUT = (
    "builtins.ValueError",
    "builtins.FileNotFoundError",
    "builtins.NotADirectoryError",
    "builtins.IsADirectoryError",
    "feature_store.traffic.capture.NotACaptureError",
    "feature_store.traffic.capture.InterfaceUnavailableError",
)
_FAILURES = (
    "builtins.OSError",
    "feature_store.registry.RegistryError",
    "feature_store.online.EmbeddedRedisError",
    "feature_store.queues.QueueUnavailableError",
    "feature_store.vectors.FaissInstallationError",
    "redis.RedisError",
    "botocore.exceptions.BotoCoreError",  # s3fs: no credentials, nobody answers
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"errata {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    del version, debug  # both are looked at before this runs


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns its exit code."""
    debug = "--debug" in arguments
    # Before any library configures the root logger to say what it loads.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        result = app(args=arguments, prog_name="errata", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt) as stop:
        err.print(str(stop) or "interrupted", highlight=False, soft_wrap=True)
        return INTERRUPTED
    except BrokenPipeError:
        return 0
    except _UsageError as error:
        error.show() if hasattr(error, "show") else err.print(str(error))
        return 2
    except ValidationError as error:
        if debug:
            raise
        for each in error.errors():
            name = ".".join(map(str, each["loc"])) or error.title
            err.print(f"[red]error:[/red] {name}: {each['msg']}", highlight=False)
        return 2
    except Exception as error:
        bad_input = _is_one_of(error, _BAD_INPUT)
        if debug or not (bad_input or _is_one_of(error, _FAILURES)):
            raise
        return _complain(error, code=2 if bad_input else 1)


def _is_one_of(error: Exception, names: Iterable[str]) -> bool:
    """Whether `error` is of a class that `names` has as MODULE.CLASS. A command that never
    imported the module cannot have raised it: asking must not import what is slow."""
    for name in names:
        module, _, kind = name.rpartition(".")
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], kind)):
            return True
    return False


def _complain(error: Exception, *, code: int) -> int:
    err.print("[red]error:[/red]", end=" ")
    err.print(_said(error), highlight=False, markup=False, soft_wrap=True)
    return code


def _said(error: Exception) -> str:
    """The failure in words: of the system's own, which file and why, without its number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__
