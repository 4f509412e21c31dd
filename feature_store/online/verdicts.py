"""Verdicts on flows that wait in Redis for their true label."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import orjson
import redis
from numpy.typing import NDArray

WAITING_TTL_S = 86_400
MOST_WAITING = 200_000  # of one process: about 150 MB with 12 classes and 96 dimensions

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class WaitingVerdict:
    """A final verdict, as far as its correction needs it.

    Shapes:
        probability: (classes,) float32; hidden: (d_model,) float32, a unit vector
    """

    prediction_id: str
    model_version: str
    time_ns: int
    probability: FloatArray
    hidden: FloatArray


class WaitingVerdicts:
    """Bounded twice: by a time to live, and by how many one process keeps waiting; the oldest make
    room. Every method is one round trip and raises `redis.RedisError` when the server is gone.
    """

    def __init__(
        self,
        client: redis.Redis,
        *,
        tenant: str = "default",
        ttl_s: int = WAITING_TTL_S,
        most: int = MOST_WAITING,
    ) -> None:
        """Keys begin with `errata:TENANT:verdict:`."""
        self._redis = client
        self._prefix = f"errata:{tenant}:verdict"
        self._ttl_s = ttl_s
        self._most = most
        self._written: deque[str] = deque()

    def put(self, verdicts: Sequence[WaitingVerdict]) -> None:
        """Keep them until their labels come or their time is up."""
        pipeline = self._redis.pipeline(transaction=False)
        for each in verdicts:
            head = orjson.dumps((each.model_version, each.time_ns, len(each.probability)))
            body = each.probability.tobytes() + each.hidden.tobytes()
            pipeline.set(self._key(each.prediction_id), head + b"\n" + body, ex=self._ttl_s)
            self._written.append(each.prediction_id)
        while len(self._written) > self._most:
            pipeline.unlink(self._key(self._written.popleft()))
        pipeline.execute()

    def get(self, prediction_id: str) -> WaitingVerdict | None:
        """The verdict, or None when it never was, has expired, or made room."""
        raw = self._redis.get(self._key(prediction_id))
        if raw is None:
            return None
        head, _, body = cast(bytes, raw).partition(b"\n")
        version, time_ns, classes = orjson.loads(head)
        numbers = np.frombuffer(body, np.float32)
        return WaitingVerdict(
            prediction_id, version, time_ns, numbers[:classes].copy(), numbers[classes:].copy()
        )

    def _key(self, prediction_id: str) -> str:
        return f"{self._prefix}:{prediction_id}"
