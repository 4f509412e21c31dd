"""Which edition serves: the alias's version, or the last good one before it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from feature_store.editions import RecommenderEdition
from feature_store.editions.additions import AddedItem
from feature_store.pacing import Pause, no_pause
from feature_store.registry import Registry, RegistryError
from feature_store.vectors import RowFilter
from services.recommend.assortment import Assortment
from services.recommend.ranking import Stage, stages_of
from services.recommend.settings import Rules


@dataclass(frozen=True)
class Served:
    """One loaded version; requests see the whole of it or the whole of another.

    Attributes:
        assortment: its items, and what was added and withdrawn since.
        problem: why an earlier version serves in place of the alias's, or None.
        stages: what moves the scores after retrieval.
    """

    assortment: Assortment
    version: str
    wanted: str
    problem: str | None
    rules: Rules = field(default_factory=Rules)
    stages: tuple[Stage, ...] = ()

    @classmethod
    def of(
        cls,
        edition: RecommenderEdition,
        *,
        version: str,
        wanted: str,
        problem: str | None = None,
        rules: Rules | None = None,
        added: Sequence[AddedItem] = (),
        withdrawn: Sequence[str] = (),
        memory: Callable[[Assortment], Stage] | None = None,
        like: Assortment | None = None,
    ) -> Served:
        """A version with its rules and the changes to its catalogue; `like`: see `Assortment`."""
        assortment = Assortment(edition, added=added, withdrawn=withdrawn, like=like)
        rules = rules or Rules()
        corrections = () if memory is None else (memory(assortment),)
        stages = stages_of(rules, assortment, corrections)
        return cls(assortment, version, wanted, problem, rules, stages)

    def instead_of(self, serving: Served) -> Served:
        """The same version after a change of the catalogue."""
        return replace(self, wanted=serving.wanted, problem=serving.problem)

    def allowed(
        self, item_types: Sequence[str] | None, columns: Mapping[str, Sequence[str]] | None
    ) -> RowFilter | None:
        """The rows that a request and the rules allow; the same object for the same request.

        Raises:
            ProblemError: 422 for a type or a column that no item has.
        """
        asked = self.assortment.filter(item_types, columns)
        if self._unblocked is None:
            return asked
        if asked is None:
            return self._unblocked
        known = self._combined.get(id(asked))
        if known is None or known[0] is not asked:
            if len(self._combined) > 256:
                self._combined.clear()
            known = (asked, RowFilter(asked.mask & self._unblocked.mask))
            self._combined[id(asked)] = known
        return known[1]

    @cached_property
    def _unblocked(self) -> RowFilter | None:
        if not self.rules.block:
            return None
        blocked = np.zeros(len(self.assortment), np.bool_)
        for where in self.rules.block:
            blocked |= self.assortment.mask(where)
        return RowFilter(~blocked)

    @cached_property
    def _combined(self) -> dict[int, tuple[RowFilter, RowFilter]]:
        return {}


def load_served(
    registry: Registry,
    *,
    model: str,
    alias: str,
    prepare: Callable[[RecommenderEdition, str], Served],
    warm_up: Callable[[Served], None] = lambda _: None,
    device: str = "auto",
    like: RecommenderEdition | None = None,
    pause: Pause = no_pause,
) -> Served:
    """The version that `alias` names, or when it is not fit to serve the newest good one before.

    Args:
        registry: where versions are; every file is verified against its checksum.
        model: name in the registry.
        alias: which version is wanted.
        prepare: makes what serves of an edition and its version.
        warm_up: raises when the version does not answer as it must.
        device: where the index goes.
        like: one that is loaded already; see `RecommenderEdition.load`.
        pause: is called now and then.

    Raises:
        RegistryError: the alias does not exist, or no version in its history is whole.
    """
    wanted = registry.resolve(model, alias)
    history = registry.alias_history(model, alias) if wanted != alias else (alias,)
    problem = None
    for version in reversed(history):
        try:
            directory, _ = registry.open(model, version, pause=pause)
            edition = RecommenderEdition.load(directory, device=device, like=like)
            pause()
            served = prepare(edition, version)
            pause()
            warm_up(served)
        except (
            Exception
        ) as error:  # an edition of other code can fail in any way, and must not serve
            problem = problem or str(error) or type(error).__name__
        else:
            return replace(served, wanted=wanted, problem=problem)
    raise RegistryError(f"no version of '{model}' that '{alias}' ever named is whole: {problem}")
