"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of a table.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Settings in YAML, as --set names them.", exists=True, dir_okay=False
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change one setting of --config, by its dotted name."
    ),
]
MaxRejectShare = Annotated[
    float,
    typer.Option(help="Stop when a larger share of the rows is unreadable.", min=0, max=1),
]


def parse_overrides(assignments: list[str] | None) -> dict[str, Any]:
    """`["a.b=3"]` → `{"a.b": 3}`, the values read as YAML.

    Raises:
        ValueError: not of the form KEY=VALUE.
    """
    if not assignments:
        return {}
    import yaml

    parsed = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name:
            raise ValueError(f"--set takes KEY=VALUE, not '{assignment}'")
        try:
            parsed[name.strip()] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {name}: '{value}' is no YAML value") from error
    return parsed
