"""What a process is to serve, and whether it is ready to.

What the settings name is to be served. So is every kind of model that has a version; one that
nobody named, and that was never promoted in this registry, is not waited for while another kind
serves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from feature_store.registry import Registry, RegistryError, UnknownVersionError

_WORST_LAST = ("ok", "degraded", "unavailable")


class Health(BaseModel):
    """Whether the process is alive, or ready to serve; the version is that of the first model that
    serves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    status: Literal["ok", "degraded", "unavailable"]
    model_version: str | None = None
    reasons: list[str] = []


class Reference(NamedTuple):
    """A version in the registry, by its model's name and an alias."""

    model: str
    alias: str


@dataclass(frozen=True)
class Unnamed:
    """A model that no setting names: served where there is one.

    Attributes:
        registry: where versions are.
        model: its name there.
        others: what else the process serves.
    """

    registry: Registry
    model: str
    others: tuple[Reference, ...]

    def left_out(self) -> bool:
        """Whether it is not waited for: it was never promoted, and another has a version."""
        try:
            return not self.registry.was_promoted(self.model) and any(map(self._has, self.others))
        except OSError:  # the store does not answer: nothing is known of it
            return False

    def _has(self, other: Reference) -> bool:
        try:
            self.registry.resolve(*other)
        except UnknownVersionError:
            return False
        except RegistryError:  # it is there, and cannot be read
            return True
        return True


def together(parts: Iterable[tuple[str, Health | None]]) -> Health:
    """The worst health of all parts that are to be served: None stands for one that is not."""
    found = [(name, health) for name, health in parts if health is not None]
    if len(found) == 1:
        return found[0][1]
    worst = max((health.status for _, health in found), key=_WORST_LAST.index, default=None)
    return Health(
        status=worst or "unavailable",
        model_version=next((each.model_version for _, each in found if each.model_version), None),
        reasons=[f"{name}: {reason}" for name, health in found for reason in health.reasons],
    )
