"""What every pipeline's configuration can do: be read from YAML, overridden, and changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.setting_errors import explain


class Section(BaseModel):
    """A part of a configuration: frozen, and without unknown settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PipelineConfig(Section):
    """The whole of a pipeline's configuration."""

    @classmethod
    def load(cls, path: Path | None, overrides: dict[str, Any] | None = None) -> Self:
        """Read YAML and apply dotted overrides such as `{"network.epochs": 3}`.

        Raises:
            ValueError: not YAML, an unknown setting, or a value out of range; the message says
                which settings there are.
        """
        tree: dict[str, Any] = {}
        if path is not None:
            try:
                loaded = yaml.safe_load(path.read_text())
            except yaml.YAMLError as error:
                raise ValueError(f"{path} is no YAML: {error}") from error
            if loaded is not None and not isinstance(loaded, dict):
                raise ValueError(f"{path} holds no settings but a {type(loaded).__name__}")
            tree = loaded or {}
        try:
            return cls.model_validate(_with(tree, overrides or {}))
        except ValidationError as error:
            raise ValueError(explain(error, cls)) from error

    def changed(self, **changes: Any) -> Self:
        """A copy with dotted settings changed: `changed(**{"network.epochs": 3})`."""
        return type(self).model_validate(_with(self.model_dump(), changes))


def _with(tree: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for name, value in changes.items():
        branch = tree
        *parents, leaf = name.split(".")
        for parent in parents:
            if not isinstance(branch.get(parent), dict):
                branch[parent] = {}
            branch = branch[parent]
        branch[leaf] = value
    return tree
