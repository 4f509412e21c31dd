"""A version and its memory are replaced together, whatever is being classified meanwhile."""

import io
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from feature_store.editions.traffic import TrafficEdition
from feature_store.error_memory import KeySpace
from feature_store.online import EmbeddedRedis
from feature_store.registry import Registry
from models.traffic.classifier import TrafficClassifier
from models.traffic.embedding import FlowEmbedding
from models.traffic.encoder import TrafficEncoder
from services.classify.schemas import FlowLabel, LabelsRequest
from services.classify.service import ClassifyService
from services.classify.settings import ClassifySettings
from services.classify.stream import ServedEdition
from tests.patience import within
from tests.services.classify.conftest import publish

eventually = within(30)


class Switching(io.BytesIO):
    """A capture whose reader meets another version behind its first bytes."""

    def __init__(self, raw: bytes, switch: Callable[[], None]) -> None:
        super().__init__(raw)
        self._switch: Callable[[], None] | None = switch

    def readinto1(self, buffer: Any, /) -> int:
        if self._switch is not None:
            switch, self._switch = self._switch, None
            switch()
        return super().readinto1(buffer)


def wider(edition: TrafficEdition) -> TrafficEdition:
    """The same trees beside a network of twice the width."""
    network = edition.network
    config = network.encoder.config
    config = config.model_copy(update={"d_model": 2 * config.d_model})
    other = TrafficClassifier(
        FlowEmbedding(network.embedding.config, config.d_model),
        TrafficEncoder(config),
        len(edition.classes),
    ).eval()
    d = network.encoder.config.d_model
    centre, scale = (np.hstack([v[:d], v]) for v in (edition.keys.centre, edition.keys.scale))
    return replace(edition, network=other, keys=KeySpace(centre, scale))


def test_verdicts_of_the_version_before_a_switch_stay_in_its_own_memory(
    tmp_path: Path, served: ServedEdition, mixed: Path, redis_server: EmbeddedRedis
) -> None:
    registry = Registry(tmp_path / "registry")
    first = publish(registry, served.edition, tmp_path / "first")
    service = ClassifyService(
        ClassifySettings(registry=str(tmp_path / "registry"), redis_url=redis_server.url)
    )
    service.refresh()
    try:

        def switch() -> None:
            publish(registry, wider(served.edition), tmp_path / "second")
            service.refresh()

        capture = Switching(mixed.read_bytes(), switch)
        answer = service.classify_capture(capture, provisional=False)
        assert service.readiness().model_version not in (None, first)
        assert answer.model_version == first
        assert {each.model_version for each in answer.verdicts} == {first}
        labels = [
            FlowLabel(prediction_id=each.prediction_id, label="telepathy", source="analyst")
            for each in answer.verdicts
        ]
        told = service.learn(LabelsRequest(labels=labels))
        assert set(told.outcomes) == {"learned"}
        after = service.classify_capture(io.BytesIO(mixed.read_bytes()), provisional=False)
        assert after.model_version != first
        assert len(after.verdicts) == len(answer.verdicts)
    finally:
        service.close()


def test_it_is_degraded_while_redis_is_away(tmp_path: Path, served: ServedEdition) -> None:
    publish(Registry(tmp_path / "registry"), served.edition, tmp_path / "first")
    # A short path of its own: a unix socket's path holds at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="errata-") as folder:
        server = EmbeddedRedis(Path(folder)).start()
        service = ClassifyService(
            ClassifySettings(registry=str(tmp_path / "registry"), redis_url=server.url)
        )
        try:
            service.refresh()
            assert service.readiness().status == "ok"
            server.stop()
            eventually(lambda: service.readiness().status == "degraded")
            assert "Redis is away" in service.readiness().reasons[0]
        finally:
            service.close()
            server.stop()
