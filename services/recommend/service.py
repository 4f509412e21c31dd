"""The process's state: its catalogues, and the batches that are computed."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import redis
import torch
from threadpoolctl import threadpool_limits

from feature_store.error_memory.remembered import Remembered
from feature_store.online import Headroom, connect
from feature_store.registry import Registry
from feature_store.vectors import single_threaded
from services.problems import ProblemError
from services.readiness import Health, Reference, Unnamed, together
from services.recommend.answering import Asked
from services.recommend.batcher import Batcher, OverloadedError
from services.recommend.catalogue import CatalogueService
from services.recommend.pseudonymous import under_pseudonym
from services.recommend.schemas import RecommendationRequest
from services.recommend.settings import DEFAULT_CATALOGUE, ServeSettings
from services.recommend.telemetry import Telemetry

_GC_THRESHOLDS = (20_000, 20, 100)

_Ask = tuple[CatalogueService, Asked]


class RecommendService:
    """Catalogues by name, behind one bounded queue.

    Attributes:
        registry: where the versions are.
        after_refresh: is called after each look at the aliases.
        beside: what else the process serves, and how that is.
    """

    def __init__(self, settings: ServeSettings, *, others: Sequence[Reference] = ()) -> None:
        """Loads nothing yet: `refresh` does, and may be called again and again. `others`: what else
        the process serves."""
        self.telemetry = Telemetry()
        self.registry, limits = Registry(settings.registry), settings.limits
        self._pseudonyms = settings.pseudonyms
        self._redis = client = connect(settings.redis_url, timeout_s=limits.redis_ms / 1e3)
        self._headroom = Headroom("predictions", share=limits.redis_share)
        others = [
            *(Reference(each.model, each.alias) for each in settings.catalogues.values()),
            *others,
        ]
        unnamed = Unnamed(self.registry, settings.model, tuple(others))
        self._catalogues = {
            name: CatalogueService(
                name,
                each,
                registry=self.registry,
                client=client,
                offline=_offline(settings.offline, name),
                device=settings.device,
                telemetry=self.telemetry,
                headroom=self._headroom,
                prediction_ttl_s=limits.prediction_ttl_s,
                pseudonyms=self._pseudonyms,
                unnamed=None if name != DEFAULT_CATALOGUE or settings.names_default else unnamed,
            )
            for name, each in settings.every_catalogue().items()
        }
        self.beside: list[tuple[str, Callable[[], Health | None]]] = []
        self.after_refresh: list[Callable[[], None]] = []
        self._batcher: Batcher[_Ask, bytes] = Batcher(
            self._compute,
            max_batch=limits.max_batch,
            max_queue=limits.max_queue,
            deadline_s=limits.deadline_ms / 1e3,
        )

    def close(self) -> None:
        """Finish what was taken."""
        for catalogue in self._catalogues.values():
            catalogue.close()

    def refresh(self) -> None:
        """Look at Redis's memory, and for new versions and changes of every catalogue."""
        single_threaded()
        with suppress(redis.RedisError):  # gone: the catalogues find that out, and say so
            self._headroom.look(self._redis)
        for catalogue in self._catalogues.values():
            catalogue.refresh()
        for look in self.after_refresh:
            look()

    def catalogue(self, name: str | None) -> CatalogueService:
        """The catalogue that a request names; `default` where it names none.

        Raises:
            ProblemError: 404 for one that is not served.
        """
        found = self._catalogues.get(name or DEFAULT_CATALOGUE)
        if found is None:
            raise ProblemError(
                status=404,
                title="Unknown catalogue",
                detail=f"'{name}' is not served here; served are {sorted(self._catalogues)}",
            )
        return found

    def remembered(self) -> list[Remembered]:
        """The memories of all catalogues."""
        return [each for catalogue in self._catalogues.values() for each in catalogue.remembered()]

    def recommendations(
        self, catalogue: str | None, request: RecommendationRequest
    ) -> asyncio.Future[bytes]:
        """The answer's JSON, later.

        Raises:
            ProblemError: 404 for an unknown catalogue; 503 when too many wait.
        """
        asked = Asked(under_pseudonym(request, self._pseudonyms), time.perf_counter())
        try:
            return self._batcher.ask((self.catalogue(catalogue), asked))
        except OverloadedError as error:
            raise self.busy(error) from error

    def busy(self, error: OverloadedError) -> ProblemError:
        """503 with Retry-After."""
        self.telemetry.refused.labels(error.reason).inc()
        detail = {
            "queue": "more requests wait than can be answered in time",
            "deadline": "the answer would have come after its deadline",
        }[error.reason]
        return ProblemError(
            status=503,
            title="Too busy",
            detail=f"{detail}; ask again in {error.retry_after_s} s",
            headers={"Retry-After": str(error.retry_after_s)},
        )

    def readiness(self) -> Health:
        """Answer `/readyz`: the worst of all that is to be served."""
        catalogues = [(name, each.readiness()) for name, each in self._catalogues.items()]
        return together(catalogues + [(name, readiness()) for name, readiness in self.beside])

    def _compute(self, asks: Sequence[_Ask]) -> list[bytes | BaseException]:
        self.telemetry.batch.observe(len(asks))
        answers: list[bytes | BaseException] = [b""] * len(asks)
        places: dict[CatalogueService, list[int]] = {}
        for place, (catalogue, _) in enumerate(asks):
            places.setdefault(catalogue, []).append(place)
        for catalogue, here in places.items():
            found = catalogue.recommendations([asks[place][1] for place in here])
            for place, answer in zip(here, found, strict=True):
                answers[place] = answer
        return answers


def _offline(root: Path, catalogue: str) -> Path:
    """Each catalogue's feedback apart from the others'."""
    return root if catalogue == DEFAULT_CATALOGUE else root / "catalogues" / catalogue


def leave_what_stays() -> None:
    """Keep the garbage collector from what was loaded before the first request.

    A request leaves no cycles behind, but makes hundreds of objects: at Python's thresholds the
    collector would run in every batch, and now and then through every object of the libraries.
    """
    gc.collect()
    _give_back()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def _give_back() -> None:
    """Return to the system what loading took and freed: the allocator keeps it otherwise."""
    with suppress(OSError, AttributeError):  # not the C library of GNU
        ctypes.CDLL(None).malloc_trim(0)


def one_thread_each() -> None:
    """A request is small: a pool of threads per operation costs more than it brings."""
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")  # of the whole process
    single_threaded()
