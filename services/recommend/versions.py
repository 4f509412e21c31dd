"""Which versions serve a catalogue: loaded beside the old ones, warmed, and then switched."""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
from collections.abc import Mapping

from feature_store.editions import RecommenderEdition
from feature_store.pacing import BESIDE_ANSWERS, Pause, Unhurried, no_pause
from feature_store.pseudonyms import differs
from feature_store.registry import Registry, RegistryError, UnknownVersionError
from services.problems import ProblemError
from services.readiness import Unnamed
from services.recommend.item_changes import ItemChanges
from services.recommend.loading import Served, load_served
from services.recommend.memory import Memories
from services.recommend.settings import CatalogueSettings
from services.recommend.telemetry import Telemetry
from services.recommend.warm_up import RecentQueries, warm_up

log = logging.getLogger(__name__)

REDIS_AWAY = "redis is unreachable: answered from what was last known"
CHAMPION, CHALLENGER = "champion", "challenger"


class Versions:
    """The champion, and where one is configured the challenger, of one catalogue.

    They change between two requests: `refresh` loads and warms one beside that which serves, and
    then rebinds one name.
    """

    def __init__(
        self,
        name: str,
        settings: CatalogueSettings,
        *,
        registry: Registry,
        device: str,
        user_key: str | None,
        changes: ItemChanges,
        memories: Memories,
        recent: RecentQueries,
        telemetry: Telemetry,
        unnamed: Unnamed | None,
    ) -> None:
        """Loads nothing yet. `name`: of the catalogue; `user_key`: names the key under which users
        are known here; `recent`: what a version is warmed with; `unnamed`: says whether a model
        that no setting names is waited for."""
        self._name, self._settings = name, settings
        self._registry, self._device, self._user_key = registry, device, user_key
        self._changes, self._memories = changes, memories
        self._recent, self._telemetry = recent, telemetry
        self._unnamed, self._left_out = unnamed, False
        self._arms: dict[str, Served] = {}
        self._closing = threading.Event()
        self._named_otherwise: dict[str, str] = {}
        self._not_loaded: dict[str, str] = {CHAMPION: "no version was loaded yet"}
        challenger = settings.challenger
        self._aliases = {CHAMPION: settings.alias} | (
            {CHALLENGER: challenger} if challenger is not None else {}
        )

    @property
    def arms(self) -> Mapping[str, Served]:
        """What serves by arm, as it is now: a later switch makes another mapping."""
        return self._arms

    @property
    def champion(self) -> Served | None:
        """What serves most users."""
        return self._arms.get(CHAMPION)

    def serving(self) -> Served:
        """What serves most users.

        Raises:
            ProblemError: 503 while no version is loaded.
        """
        served = self.champion
        if served is None:
            raise self.unavailable()
        return served

    def unavailable(self) -> ProblemError:
        """That nothing can be answered."""
        return ProblemError(
            status=503,
            title="No model is loaded",
            detail=f"{self._not_loaded[CHAMPION]}. Train one with `errata train recommender`, or "
            "promote one with `errata registry promote`.",
        )

    def refresh(self, *, changed: bool) -> None:
        """Look at the aliases; load what is new, and where items `changed` make what serves anew.

        A version that is corrupt or fails its warm-up never serves: the one before stays.
        """
        # What is loaded before anyone is answered is waited for.
        pause = Unhurried(BESIDE_ANSWERS, hurry=self._closing) if self._arms else no_pause
        for arm, alias in self._aliases.items():
            try:
                self._refresh_arm(arm, alias, changed=changed, pause=pause)
            except (RegistryError, OSError) as error:
                self._say_why(arm, error)

    def close(self) -> None:
        """Do not let the end wait for what is being loaded."""
        self._closing.set()

    def arm_of(self, user_id: str | None, arms: Mapping[str, Served]) -> str:
        """The same user always meets the same side; who is not named meets the champion."""
        if user_id is None or not self._settings.challenger_share or CHALLENGER not in arms:
            return CHAMPION
        salted = f"{self._name}\0{self._settings.challenger}\0{user_id}".encode()
        place = int.from_bytes(hashlib.blake2b(salted, digest_size=8).digest()) / 2**64
        return CHALLENGER if place < self._settings.challenger_share else CHAMPION

    @property
    def left_out(self) -> bool:
        """Whether nothing serves and nothing is waited for."""
        return self._left_out and self.champion is None

    @property
    def named_otherwise(self) -> list[str]:
        """Of each arm that learned of users under other names than those used here, how."""
        return list(self._named_otherwise.values())

    def missing(self) -> list[str]:
        """Of what should serve and does not, why; the champion first."""
        return [
            self._not_loaded.get(arm, "it was not loaded yet")
            for arm in self._aliases
            if arm not in self._arms
        ]

    def degraded(self, served: Served, *, redis_away: bool, count: bool = True) -> list[str]:
        """Why an answer of `served` is not what it should be; nothing when it is."""
        if not redis_away and not served.problem:
            return []
        reasons = {}
        if redis_away:
            reasons["redis"] = REDIS_AWAY
        if served.problem:
            reasons["version"] = f"an earlier version serves: {served.problem}"
        if count:
            for name in reasons:
                self._telemetry.degraded.labels(name).inc()
        return list(reasons.values())

    def _refresh_arm(self, arm: str, alias: str, *, changed: bool, pause: Pause) -> None:
        wanted = self._registry.resolve(self._settings.model, alias)
        serving = self._arms.get(arm)
        if serving is not None and serving.wanted == wanted:
            if changed:
                assortment = serving.assortment
                served = self._prepare(assortment.base, serving.version)
                self._switch(arm, served.instead_of(serving))
            return
        served = load_served(
            self._registry,
            model=self._settings.model,
            alias=alias,
            device=self._device,
            prepare=functools.partial(self._prepare, pause=pause),
            like=next((each.assortment.base for each in self._arms.values()), None),
            warm_up=lambda loaded: warm_up(loaded, self._recent.sample(), pause=pause),
            pause=pause,
        )
        if served.problem:
            log.error(
                "version %s serves in place of %s: %s", served.version, wanted, served.problem
            )
        self._compare_names(arm, served.version)
        self._switch(arm, served)

    def _say_why(self, arm: str, error: Exception) -> None:
        """Say, once, why an arm has no new version."""
        before = self._not_loaded.get(arm), self._left_out
        if arm == CHAMPION:
            self._left_out = (
                isinstance(error, UnknownVersionError)
                and self._unnamed is not None
                and self._unnamed.left_out()
            )
        self._not_loaded[arm] = str(error)
        if before == (str(error), self._left_out):
            return
        if arm == CHAMPION and self.left_out:
            log.info("no recommender is served, and none is waited for: %s", error)
        else:
            log.error("no new version was loaded for %s: %s", self._name, error)

    def _compare_names(self, arm: str, version: str) -> None:
        """Say so where a version learned of users under names that are not those used here."""
        manifest = self._registry.manifest(self._settings.model, version)
        problem = differs(manifest.user_key, self._user_key, whose="its training named")
        self._named_otherwise.pop(arm, None)
        if problem is not None:
            self._named_otherwise[arm] = f"version {version}: {problem}"
            log.warning("version %s: %s", version, problem)

    def _prepare(
        self, edition: RecommenderEdition, version: str, *, pause: Pause = no_pause
    ) -> Served:
        """What serves of an edition: the place where corrections of the model come in."""
        loaded = [each.assortment for each in self._arms.values()]
        like = next((each for each in loaded if each.base.items is edition.items), None)
        return Served.of(
            edition,
            version=version,
            wanted=version,
            rules=self._settings.rules,
            added=self._changes.added,
            withdrawn=self._changes.withdrawn,
            memory=lambda assortment: self._memories.stage(assortment, version, pause=pause),
            like=like,
        )

    def _switch(self, arm: str, served: Served) -> None:
        before = self._arms.get(arm)
        self._arms = self._arms | {arm: served}  # requests hold the dictionary that they saw
        info, model = self._telemetry.model, self._settings.model
        if before is not None:
            info.labels(self._name, model, before.version, arm).set(0)
        info.labels(self._name, model, served.version, arm).set(1)
