"""Which version classifies: the one that an alias names, with a memory of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import redis

from feature_store.editions.traffic import MODEL_NAME
from feature_store.online import connect
from feature_store.registry import Registry, RegistryError, UnknownVersionError
from services.classify.correction import Corrector, Uncorrected
from services.classify.loading import load_served
from services.classify.memory import REDIS_TIMEOUT_S, OnLabel, TrafficMemory
from services.classify.replicas import RecentStream
from services.classify.settings import ClassifySettings
from services.classify.stream import ServedEdition
from services.problems import ProblemError
from services.readiness import Health, Reference, Unnamed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Serving:
    """A version and its memory, which a switch replaces together.

    Attributes:
        served: the edition.
        memory: what corrects it; None without Redis.
    """

    served: ServedEdition
    memory: TrafficMemory | None

    @property
    def corrector(self) -> Corrector:
        """What corrects the edition; without a memory nothing does."""
        return self.memory or Uncorrected(self.served.edition.classes)


class FollowedVersion:
    """The version that an alias names.

    Attributes:
        serving: None until a version was loaded. Whoever needs edition and memory takes both from
            one look at it.
    """

    def __init__(
        self,
        settings: ClassifySettings,
        *,
        others: Sequence[Reference],
        recent: RecentStream | None,
        on_label: OnLabel,
    ) -> None:
        """Loads nothing yet: `refresh` does, and may be called again and again.

        Args:
            settings: of the service.
            others: what else the process serves.
            recent: the flows of all replicas.
            on_label: told of every label that is learned.
        """
        self.serving: Serving | None = None
        self._settings = settings
        self._registry = Registry(settings.registry)
        self._unnamed = Unnamed(self._registry, MODEL_NAME, tuple(others))
        self._recent = recent
        self._on_label = on_label
        self._problem: str | None = "no version was loaded yet"
        self._left_out = False

    def refresh(self) -> None:
        """Look at the alias; load the version that it names if another one serves.

        One that cannot be loaded never serves: the old one stays, and where none serves yet the
        newest good one that the alias named before does.
        """
        alias = self._settings.alias
        try:
            wanted = self._registry.resolve(MODEL_NAME, alias)
            if self.serving is None or self.serving.served.version != wanted:
                self._serve(load_served(self._registry, alias))
            self._problem = None
        except Exception as error:  # an edition of other code can fail in any way
            self._say_why(error)
            if self.serving is None:
                self._serve_an_earlier_one()
        memory = None if self.serving is None else self.serving.memory
        if memory is not None:
            with suppress(redis.RedisError):
                if memory.rebased is None:  # it was away when the version was loaded
                    memory.begin()
                memory.learn_from_others()

    def needed(self) -> Serving:
        """What classifies.

        Raises:
            ProblemError: 503, there is nothing.
        """
        if self.serving is None:
            raise ProblemError(
                status=503,
                title="No model is loaded",
                detail=f"{self._problem}. Train one with `errata train traffic --data DIR "
                "--promote`.",
            )
        return self.serving

    def readiness(self) -> Health | None:
        """Whether traffic can be classified; None where nobody waits for it."""
        serving, problem = self.serving, self._problem
        if serving is None:
            return None if self._left_out else Health(status="unavailable", reasons=[problem or ""])
        version = serving.served.version
        reasons = [] if problem is None else [f"version {version} serves on: {problem}"]
        if serving.memory is not None and not serving.memory.replica.fresh:
            reasons.append("the error memory is as it was: Redis is away")
        return Health(
            status="degraded" if reasons else "ok", model_version=version, reasons=reasons
        )

    def close(self) -> None:
        """End the memory."""
        if self.serving is not None and self.serving.memory is not None:
            self.serving.memory.close()

    def _serve(self, served: ServedEdition) -> None:
        """Let an edition answer, with a memory of its own."""
        before, memory = self.serving, None
        if self._settings.redis_url is not None:
            memory = TrafficMemory(
                connect(self._settings.redis_url, timeout_s=REDIS_TIMEOUT_S),
                served,
                tenant=self._settings.tenant,
                redis_share=self._settings.redis_share,
                on_label=self._on_label,
                recent=self._recent,
            )
        self.serving = Serving(served, memory)
        if before is not None and before.memory is not None:
            before.memory.close()

    def _serve_an_earlier_one(self) -> None:
        history: tuple[str, ...] = ()
        with suppress(RegistryError, OSError):
            history = self._registry.alias_history(MODEL_NAME, self._settings.alias)
        for version in reversed(history[:-1]):
            with suppress(Exception):  # as above; what is wrong with the alias's own is said
                self._serve(load_served(self._registry, version))
                return

    def _say_why(self, error: Exception) -> None:
        """Say, once, why there is no new version."""
        before = self._problem, self._left_out
        # A live source is not named in vain: its model is waited for.
        self._left_out = (
            isinstance(error, UnknownVersionError)
            and self._settings.watch is None
            and self._unnamed.left_out()
        )
        self._problem = str(error) or type(error).__name__
        if before == (self._problem, self._left_out):
            return
        if self._left_out and self.serving is None:
            log.info("no traffic is classified, and no model for it is waited for: %s", error)
        else:
            log.error("no new traffic model was loaded: %s", error)
