"""Labels of flows from a stream, one a message or many."""

import functools
import json
from pathlib import Path

import redis

from errata.application import application
from feature_store.error_memory.log import MemoryLog
from feature_store.online import EmbeddedRedis
from feature_store.registry import Registry
from services.classify.settings import ClassifySettings
from services.classify.stream import ServedEdition
from services.recommend.settings import ServeSettings
from tests.patience import within
from tests.services.classify.conftest import publish
from tests.services.recommend.conftest import serving

eventually = within(30)


def test_a_message_is_a_label_or_a_body_of_many(
    tmp_path: Path,
    served: ServedEdition,
    mixed: Path,
    redis_server: EmbeddedRedis,
    redis_client: redis.Redis,
) -> None:
    registry = str(tmp_path / "registry")
    version = publish(Registry(registry), served.edition, tmp_path / "staging")
    traffic = ClassifySettings(registry=registry, redis_url=redis_server.url)
    settings = ServeSettings(
        registry=registry,
        redis_url=redis_server.url,
        offline=tmp_path / "offline",
        device="cpu",
        refresh_s=0.05,
    )
    build = functools.partial(application, traffic=traffic, labels_stream="flow-labels")
    with serving(settings, build) as client:
        found = client.post("/v1/classify", content=mixed.read_bytes()).json()["verdicts"]
        labels = [
            {"prediction_id": each["prediction_id"], "label": "telepathy", "feedback_id": f"f{n}"}
            for n, each in enumerate(found[:5])
        ]
        redis_client.xadd("flow-labels", labels[0])
        redis_client.xadd("flow-labels", {"json": json.dumps({"labels": labels[1:]})})
        redis_client.xadd("flow-labels", {"json": json.dumps({"labels": labels[1:]})})
        redis_client.xadd("flow-labels", {"json": json.dumps({"labels": []})})

        def outcomes() -> dict[str, float]:
            lines = client.get("/metrics").text.splitlines()
            said = [each for each in lines if each.startswith("errata_label_messages_total{")]
            return {each.split('"')[1]: float(each.split()[-1]) for each in said}

        eventually(lambda: sum(outcomes().values()) == 4)
        assert outcomes() == {"learned": 2, "duplicate": 1, "rejected": 1}
    assert MemoryLog(redis_client, model="traffic", version=version).position() == 5
