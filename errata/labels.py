"""Outcomes from a stream, as an alternative to sending them over HTTP."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import orjson
import redis
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from pydantic import ValidationError

from feature_store.online.messages import Message, MessageSource
from feature_store.pseudonyms import Pseudonyms
from feature_store.queues import QueueUnavailableError
from services.classify.schemas import LabelsRequest
from services.classify.service import ClassifyService
from services.problems import ProblemError
from services.recommend.schemas import FeedbackRequest
from services.recommend.service import RecommendService

log = logging.getLogger(__name__)

_BLOCK_MS = 200
_RETRY_S = 0.5
# An outcome can overtake its prediction, which is kept behind the answer: it is tried again.
EARLY_MS = 3_000


class LabelConsumer:
    """A thread that does with each message what `POST /v1/feedback` does with a body.

    A message is a field `json` with that body, or the body's fields themselves; `catalogue` names a
    catalogue. A `label` makes it one about a flow, and `labels` a body of `POST /v1/labels`.
    Without a `feedback_id` the message's own id stands for it, so that a message that is delivered
    again counts once. One that can never be understood is set aside with the reason; while the
    disk, Redis or the stream's broker is away, messages wait.
    """

    def __init__(
        self,
        source: MessageSource,
        recommend: RecommendService,
        classify: ClassifyService | None = None,
        *,
        metrics: CollectorRegistry | None = None,
        pseudonyms: Pseudonyms | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._recommend, self._classify = source, recommend, classify
        self._pseudonyms, self._now = pseudonyms, now
        self._first_seen: dict[str, float] = {}  # of the early ones, by this clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="errata-labels", daemon=True)
        self.messages = Counter(
            "errata_label_messages_total",
            "Messages of the label stream by outcome",
            ["outcome"],
            registry=metrics or CollectorRegistry(),
        )

    def start(self) -> None:
        """Read until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the message under way."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._read()
        finally:
            with suppress(redis.RedisError, QueueUnavailableError):
                self._source.close()

    def _read(self) -> None:
        away = False
        while not self._stop.is_set():
            try:
                messages = self._source.read(block_ms=_BLOCK_MS)
                self._handle(messages)
                away = False
            except (redis.RedisError, QueueUnavailableError) as error:
                if not away:
                    log.warning("labels of %s wait: %s", self._source.name, error)
                away = True
                self._stop.wait(_RETRY_S)
            except Exception:  # whatever one message does, those behind it are read
                log.exception("labels of %s could not be read", self._source.name)
                self._stop.wait(_RETRY_S)

    def _handle(self, messages: Any) -> None:
        done: list[Message] = []
        try:
            for message in messages:
                if self._stop.is_set():
                    return
                outcome = self._one(message)
                self.messages.labels(outcome).inc()
                if outcome != "early":
                    self._first_seen.pop(message.id, None)
                if outcome in ("learned", "duplicate", "unknown"):
                    done.append(message)
                elif outcome == "waits":
                    self._stop.wait(_RETRY_S)
                    return
        finally:
            self._source.acknowledge(done)

    def _one(self, message: Message) -> str:
        try:
            body, name = _body(message), f"{self._source.name}:{message.id}"
            if "label" in body or "labels" in body:
                return self._flows(body, name)
            return self._item(body | {"feedback_id": body.get("feedback_id") or name}, message)
        except (ValidationError, ValueError, TypeError) as error:
            self._aside(message, str(error).splitlines()[0])
            return "rejected"
        except ProblemError as problem:
            if problem.status == 503:
                log.warning("a label waits: %s", problem.detail)
                return "waits"
            self._aside(message, problem.detail)
            return "rejected"
        except OSError as error:
            log.warning("a label waits: %s", error)
            return "waits"

    def _item(self, body: dict[str, Any], message: Message) -> str:
        catalogue = body.pop("catalogue", None)
        request = FeedbackRequest.model_validate(body)
        answer = self._recommend.catalogue(catalogue).feedback(request)
        if answer.known_prediction is False:
            return "early" if self._is_early(message) else "unknown"
        return "duplicate" if answer.status == "duplicate" else "learned"

    def _is_early(self, message: Message) -> bool:
        """Whether its prediction may still come. The sender's clock may be ahead of ours."""
        now = self._now() * 1e3
        first = self._first_seen.setdefault(message.id, now)
        return now - min(first, message.sent_ms) < EARLY_MS

    def _flows(self, body: dict[str, Any], name: str) -> str:
        if self._classify is None:
            raise ValueError("this service classifies no traffic")
        body.pop("catalogue", None)
        request = LabelsRequest.model_validate(body if "labels" in body else {"labels": [body]})
        labels = [
            each.model_copy(update={"feedback_id": each.feedback_id or f"{name}{place}"})
            for each, place in zip(request.labels, _places(len(request.labels)), strict=True)
        ]
        outcomes = self._classify.learn(LabelsRequest(labels=labels)).outcomes
        return next((each for each in ("learned", "duplicate") if each in outcomes), "unknown")

    def _aside(self, message: Message, reason: str) -> None:
        log.warning("message %s of %s is set aside: %s", message.id, self._source.name, reason)
        self._source.set_aside(self._without_names(message), reason)

    def _without_names(self, message: Message) -> Message:
        """What may be kept of a message. Where users have pseudonyms that is what it has of an
        outcome: an id may stand anywhere else."""
        if self._pseudonyms is None:
            return message
        try:
            body = _body(message)
        except ValueError:
            kept = {}
        else:
            kept = {k: v for k, v in body.items() if k in FeedbackRequest.model_fields}
            kept |= {"user_id": self._pseudonyms(str(body["user_id"]))} if "user_id" in body else {}
        return replace(message, fields={"json": orjson.dumps(kept)})


def with_labels(
    app: FastAPI,
    source: MessageSource,
    *,
    traffic: FastAPI | None,
    pseudonyms: Pseudonyms | None = None,
) -> FastAPI:
    """`app`, which while it runs also takes outcomes from a stream; what is set aside names users
    by `pseudonyms`."""
    lifespan = app.router.lifespan_context
    service: RecommendService = app.state.service
    consumer = LabelConsumer(
        source,
        service,
        None if traffic is None else traffic.state.classify,
        metrics=service.telemetry.registry,
        pseudonyms=pseudonyms,
    )

    @asynccontextmanager
    async def reading(scope: Any) -> AsyncIterator[Any]:
        async with lifespan(scope) as state:
            consumer.start()
            try:
                yield state
            finally:
                await asyncio.to_thread(consumer.stop)

    app.router.lifespan_context = reading
    return app


def _places(n: int) -> list[str]:
    """What tells the labels of one message apart."""
    return [""] if n == 1 else [f":{place}" for place in range(n)]


def _body(message: Message) -> dict[str, Any]:
    if (raw := message.fields.get("json")) is not None:
        found = orjson.loads(raw)
        if not isinstance(found, dict):
            raise ValueError("`json` is no object")
        return found
    body: dict[str, Any] = {key: value.decode() for key, value in message.fields.items()}
    return body
