"""Write docs/reference: every command with its options, every route with its fields.

    python scripts/reference.py docs/reference

Made of what the program itself answers to `--help` and `/openapi.json`; `tests/docs` fails where
the pages are older than the program.
"""

from __future__ import annotations

import inspect
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from errata import __version__
from errata.application import application
from errata.cli import app
from services.classify.settings import ClassifySettings
from services.recommend.settings import ServeSettings

NOTE = "<!-- made by `make docs`: edit the program, not this page -->\n"


def main(folder: Path) -> None:
    """Write both pages."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "commands.md").write_text(commands())
    (folder / "http.md").write_text(http())


def commands() -> str:
    """The page of the command line."""
    parts = [
        f"{NOTE}\n# Commands\n",
        "Exit code 0: done; 1: failed; 2: wrong use or bad input. `errata --debug …` shows "
        "tracebacks. The environment is in [`errata/settings.py`](../../errata/settings.py).\n",
    ]
    for path, command in _commands(typer.main.get_command(app), ("errata",)):
        parts.append(f"## `{' '.join(path)}`\n\n{_help(command.help)}\n")
        rows = [row for parameter in command.params if (row := _parameter(parameter))]
        if rows:
            parts.append("\n".join(["| | | default |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, each in sorted(command.commands.items()):
        yield from _commands(each, (*path, name))


def _help(text: str | None) -> str:
    """Prose as it is, and indented commands as blocks."""
    paragraphs = inspect.cleandoc(text or "").replace("\f", "").split("\n\n")
    return "\n\n".join(
        f"```text\n{inspect.cleandoc(each)}\n```"
        if each.startswith(("    ", "errata ", "ERRATA_"))
        else " ".join(each.split())
        for each in paragraphs
    )


def _parameter(parameter: Any) -> str | None:
    names = [name for name in (*parameter.opts, *parameter.secondary_opts) if name != "--help"]
    if not names:
        return None
    is_option = names[0].startswith("-")
    shown = ", ".join(f"`{name}`" for name in names) if is_option else f"`{names[0].upper()}`"
    default = "required" if parameter.required else _default(parameter.default)
    return f"| {shown} | {_cell(getattr(parameter, 'help', None) or '')} | {default} |"


def _default(value: Any) -> str:
    if value is None or value is False or callable(value):
        return ""
    return f"`{getattr(value, 'value', value)}`"


def http() -> str:
    """The page of the routes."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        settings = ServeSettings(
            registry=str(home),
            redis_url=f"unix://{home}/none",
            offline=home,
            code_version=__version__,
        )
        traffic = ClassifySettings(registry=str(home), redis_url=None, code_version=__version__)
        served = application(settings, traffic)
        document = served.openapi()
        served.state.service.close()
    parts = [
        f"{NOTE}\n# HTTP API\n",
        "The same as a document for programs: `/openapi.json`; to try out: `/docs`. Errors are "
        "[RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem documents. Who may ask what: "
        "[security](../security.md#who-may-ask).\n",
    ]
    schemas = document["components"]["schemas"]
    for path, methods in sorted(document["paths"].items()):
        for method, operation in methods.items():
            parts.append(f"## `{method.upper()} {path}`\n\n{_help(operation.get('description'))}\n")
            parts += _fields_of(operation, schemas)
            statuses = ", ".join(sorted(operation["responses"]))
            parts.append(f"Answers: {statuses}.\n")
    return "\n".join(parts)


def _fields_of(operation: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    tables = []
    rows = [
        f"| `{each['name']}` ({each['in']}) | {_type(each['schema'])} | "
        f"{_cell(each.get('description', ''))} |"
        for each in operation.get("parameters", ())
    ]
    if rows:
        tables.append("\n".join(["| parameter | type | |", "|---|---|---|", *rows]) + "\n")
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        schema = content["application/json"]["schema"]
        for each in schema.get("anyOf", [schema]):
            tables += _table("asked", each, schemas)
            for name in _parts(each, schemas):
                tables += _table(f"`{name}`", {"$ref": name}, schemas)
    answer = operation["responses"].get("200", {}).get("content", {})
    if "application/json" in answer:
        schema = answer["application/json"].get("schema", {})
        for each in schema.get("anyOf", [schema]):
            tables += _table("answered", each, schemas)
    return tables


def _parts(schema: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    """The models that what is asked consists of, each behind that which has it."""
    found: list[str] = []
    waiting = [_model(schema, schemas)]
    while waiting:
        for each in waiting.pop().get("properties", {}).values():
            for inner in (each, each.get("items", {})):
                name = inner.get("$ref", "").rsplit("/", 1)[-1]
                if name and name not in found and "properties" in schemas[name]:
                    found.append(name)
                    waiting.append(schemas[name])
    return found


def _model(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    model: dict[str, Any] = schemas.get(schema.get("$ref", "").rsplit("/", 1)[-1], schema)
    return model


def _table(title: str, schema: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    found = _model(schema, schemas)
    required = set(found.get("required", ()))
    rows = [
        f"| `{key}`{' *' if key in required and title != 'answered' else ''} | {_type(each)} | "
        f"{_cell(each.get('description', ''))} |"
        for key, each in found.get("properties", {}).items()
    ]
    return ["\n".join([f"| {title} | type | |", "|---|---|---|", *rows]) + "\n"] if rows else []


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[-1])
    if options := schema.get("anyOf"):
        return " or ".join(_type(each) for each in options)
    if "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"array of {_type(schema.get('items', {}))}"
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("minimum", "≥"), ("maximum", "≤"))
        if isinstance(schema.get(key), int | float)
    ]
    default = schema.get("default")
    if default not in (None, [], {}, ""):
        bounds.append(f"default `{default}`")
    return f"{kind}{' (' + ', '.join(bounds) + ')' if bounds else ''}"


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", text).replace("|", "\\|").strip()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
