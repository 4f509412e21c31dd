"""Which edition serves: the alias's version, or the last good one before it."""

from __future__ import annotations

from dataclasses import dataclass

from feature_store.editions import RecommenderEdition
from feature_store.registry import Registry, RegistryError


@dataclass(frozen=True)
class Served:
    """One loaded version; requests see the whole of it or the whole of another.

    Attributes:
        problem: why an earlier version serves in place of the alias's, or None.
    """

    edition: RecommenderEdition
    version: str
    wanted: str
    problem: str | None


def load_served(registry: Registry, *, model: str, alias: str, device: str = "auto") -> Served:
    """The version that `alias` names, or when it is corrupt the newest good one before it.

    Raises:
        RegistryError: the alias does not exist, or no version in its history is whole.
    """
    wanted = registry.resolve(model, alias)
    history = registry.alias_history(model, alias) if wanted != alias else (alias,)
    problem = None
    for version in reversed(history):
        try:
            directory, _ = registry.open(model, version)
            return Served(
                RecommenderEdition.load(directory, device=device), version, wanted, problem
            )
        except (
            Exception
        ) as error:  # an edition of other code can fail in any way, and must not serve
            problem = problem or str(error)
    raise RegistryError(f"no version of '{model}' that '{alias}' ever named is whole: {problem}")
