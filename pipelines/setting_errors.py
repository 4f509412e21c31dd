"""What is wrong with a configuration, in the words of whoever wrote it."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError


def explain(error: ValidationError, model: type[BaseModel], *, hidden: Collection[str] = ()) -> str:
    """One line per wrong setting; for an unknown name, the names that exist beside it.

    Args:
        error: what validating a tree of settings raised.
        model: the root of the tree.
        hidden: settings at the root that nobody writes down: they come another way.

    Example:
        >>> explain(error, RecommenderConfig)                  # doctest: +SKIP
        "no setting 'towers.epoch': did you mean towers.epochs? 'towers' has dimension, hidden, …"
    """
    return "\n".join(_line(dict(each), model, hidden) for each in error.errors())


def _line(error: dict[str, Any], model: type[BaseModel], hidden: Collection[str]) -> str:
    path = [part for part in error["loc"] if isinstance(part, str)]
    name = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return _unknown(path, model, hidden)
    if error["type"] in ("model_type", "model_attributes_type"):
        names = ", ".join(f"{name}.{each}" for each in _group(path, model).model_fields)
        return f"'{name}' is a group of settings: set one of {names}"
    if error["type"] == "value_error":  # of a whole group; it says itself what was given
        said = str(error["ctx"]["error"])
        return f"{name}: {said}" if name else said
    message = str(error["msg"])
    return f"{name}: {message[:1].lower()}{message[1:]}, not {error['input']!r}"


def _unknown(path: list[str], model: type[BaseModel], hidden: Collection[str]) -> str:
    *parents, leaf = path
    known = list(_group(parents, model).model_fields)
    if not parents:
        known = [each for each in known if each not in hidden]
    prefix = "".join(f"{each}." for each in parents)
    where = f"'{prefix[:-1]}' has" if parents else "there are"
    elsewhere = [each for each in _names(model, "") if each.rpartition(".")[2] == leaf]
    near = elsewhere or [f"{prefix}{each}" for each in difflib.get_close_matches(leaf, known, n=1)]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"no setting '{prefix}{leaf}': {hint}{where} {', '.join(known)}"


def _group(path: list[str], model: type[BaseModel]) -> type[BaseModel]:
    """The model at `path`."""
    for name in path:
        # What is no group is a key in a mapping of groups, whose model is reached already.
        model = _nested(model, name) or model
    return model


def _nested(model: type[BaseModel], name: str) -> type[BaseModel] | None:
    annotation = model.model_fields[name].annotation if name in model.model_fields else None
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _names(model: type[BaseModel], prefix: str) -> list[str]:
    """Dotted names of every leaf; in a mapping, NAME stands for the key."""
    found = []
    for name, field in model.model_fields.items():
        inner = _nested(model, name)
        key = "NAME." if get_origin(field.annotation) is dict else ""
        found += _names(inner, f"{prefix}{name}.{key}") if inner else [f"{prefix}{name}"]
    return found
