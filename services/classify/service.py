"""What is asked of a traffic edition and its memory, and who hears of the verdicts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO

import numpy as np
import redis
from prometheus_client.core import Metric

from feature_store.editions.traffic import MODEL_NAME
from feature_store.error_memory.remembered import Remembered
from feature_store.online import connect
from feature_store.traffic.capture import NotACaptureError, open_capture
from feature_store.traffic.features import Tier
from services.classify.labels import Label, LabelLog, Learned
from services.classify.memory import REDIS_TIMEOUT_S
from services.classify.neighbours import RecentFlows
from services.classify.reader import FlowReader
from services.classify.replicas import RecentStream, Relay
from services.classify.schemas import (
    CaptureResponse,
    FlowNow,
    FlowsRequest,
    FlowsResponse,
    FlowVerdict,
    LabelsRequest,
    LabelsResponse,
    NeighboursResponse,
    StreamVerdict,
)
from services.classify.settings import ClassifySettings
from services.classify.sinks import Hub
from services.classify.source import Source
from services.classify.stream import StreamClassifier, classify
from services.classify.telemetry import TrafficTelemetry
from services.classify.verdict import Verdict
from services.classify.version import FollowedVersion, Serving
from services.classify.watcher import Watcher
from services.names import unique_names
from services.problems import ProblemError, disconnected
from services.readiness import Health, Reference

log = logging.getLogger(__name__)


class ClassifyService:
    """One process's traffic edition and everything that it classifies.

    Attributes:
        hub: all verdicts, of uploads and of the live source, and of the other replicas.
        relay: tells them and hears of theirs; None without Redis.
        telemetry: what is counted of them.
    """

    def __init__(self, settings: ClassifySettings, *, others: Sequence[Reference] = ()) -> None:
        """Loads nothing yet: `refresh` does, and may be called again and again. `others`: what else
        the process serves."""
        self.hub = Hub()
        self.relay: Relay | None = None
        self._recent = RecentFlows()
        self._recent_stream: RecentStream | None = None
        self._settings = settings
        self._labels = LabelLog(settings.labels) if settings.labels else None
        self._watcher: Watcher | None = None
        self.telemetry = TrafficTelemetry()
        if settings.redis_url is not None:
            client = connect(settings.redis_url, timeout_s=REDIS_TIMEOUT_S)
            self._recent_stream = RecentStream(client, tenant=settings.tenant)
            self.relay = Relay(client, tenant=settings.tenant, hear=self.hub.write)
        self._version = FollowedVersion(
            settings, others=others, recent=self._recent_stream, on_label=self.telemetry.told
        )

    def refresh(self) -> None:
        """Look at the alias, see `FollowedVersion.refresh`; start the live source once there is
        something to classify it with."""
        self._version.refresh()
        self._show_drift()
        if self._version.serving is not None and self._settings.watch and self._watcher is None:
            self._watcher = Watcher(
                self._settings.watch, self._settings, serving=self._version.needed, emit=self._emit
            )

    @property
    def watching(self) -> str | None:
        """What the live source is doing, or why it is not; None without one."""
        return None if self._watcher is None else self._watcher.status

    def readiness(self) -> Health | None:
        """Whether traffic can be classified; None where nobody waits for it."""
        return self._version.readiness()

    def classify_capture(
        self, capture: BinaryIO, *, provisional: bool, gone: Callable[[], bool] = lambda: False
    ) -> CaptureResponse:
        """Verdicts on a capture that was uploaded, unless whoever asked is `gone` before its end.

        Raises:
            ProblemError: 503 without a model; 422 when it is no capture; 413 when it unpacks to
                more than is read; 400 when nobody asks.
        """
        serving = self._version.needed()
        classifier = StreamClassifier(serving.served, corrector=serving.memory)
        verdicts: list[StreamVerdict] = []
        left_out, most = 0, self._settings.max_unpacked_bytes
        try:
            with open_capture(capture) as packets:

                def given_up() -> bool:
                    return packets.bytes_read > most or gone()

                for found in classify(Source(packets, None, "upload"), classifier, stop=given_up):
                    if gone():
                        break
                    self._emit(found, serving)
                    for verdict in found:
                        if not provisional and not verdict.final:
                            continue
                        if len(verdicts) < self._settings.max_verdicts:
                            verdicts.append(StreamVerdict.model_validate(verdict.to_json()))
                        else:
                            left_out += 1
                damage = {str(reason): count for reason, count in packets.damage.items()}
                too_large = packets.bytes_read > most
        except NotACaptureError as error:
            self.telemetry.uploads.labels("no_capture").inc()
            reason = str(error).split(": ", 1)[-1]
            raise ProblemError(
                status=422, title="Not a capture", detail=f"the upload is no capture: {reason}"
            ) from error
        if gone():
            self.telemetry.uploads.labels("abandoned").inc()
            raise disconnected()
        if too_large:
            self.telemetry.uploads.labels("too_large").inc()
            raise ProblemError(
                status=413,
                title="Capture too large",
                detail=f"unpacked, a capture may hold {most} bytes; send it in pieces, or read it "
                "with `errata classify FILE`",
            )
        self.telemetry.uploads.labels("classified").inc()
        outcomes = classifier.meter.outcomes
        return CaptureResponse(
            model_version=serving.served.version,
            verdicts=verdicts,
            left_out=left_out,
            flows=classifier.counts.flows,
            evicted=classifier.counts.evicted,
            packets={outcome.name.lower(): count for outcome, count in outcomes.items()},
            damage=damage,
        )

    def classify_flows(self, request: FlowsRequest) -> FlowsResponse:
        """Verdicts on flows that were given by their features.

        Raises:
            ProblemError: 503 without a model; 422 when the model sees more than was given.
        """
        serving = self._version.needed()
        edition = serving.served.edition
        if edition.tier is Tier.T2:
            raise ProblemError(
                status=422,
                title="Features do not suffice",
                detail="this model reads the packets' bytes: upload a capture",
            )
        if edition.tier is Tier.T1 and not all(
            packet.fields for flow in request.flows for packet in flow.packets
        ):
            raise ProblemError(
                status=422,
                title="Features do not suffice",
                detail="this model reads header fields: give `fields` of every packet",
            )
        flows = request.batch(edition.packets)
        corrector = serving.corrector
        reader = FlowReader(edition, corrector, states=1)
        found = reader.whole(flows, flows.flow["kept"].astype("int64"))
        names = edition.names(found.probability, corrector.classes)
        return FlowsResponse(
            model_version=serving.served.version,
            verdicts=[
                FlowVerdict(
                    prediction_id=unique_names(1)[0],
                    id=flow.id,
                    packet=int(found.packet[row]),
                    label=names[row],
                    guess=corrector.classes[found.probability[row].argmax()],
                    confidence=float(found.probability[row].max()),
                )
                for row, flow in enumerate(request.flows)
            ],
        )

    def learn(self, request: LabelsRequest) -> LabelsResponse:
        """Correct what is like these flows from now on, and keep the labels for the next training.

        Raises:
            ProblemError: 503 without a model or Redis, or where the disk takes nothing: send the
                labels again.
        """
        memory = self._version.needed().memory
        labels = [
            Label(each.prediction_id, each.label, each.source, each.feedback_id or "")
            for each in request.labels
        ]
        if memory is None:
            raise ProblemError(
                status=503,
                title="Nothing is remembered",
                detail="labels are joined with verdicts in Redis, and this service has none",
            )
        self._log(labels)
        try:
            outcomes = memory.learn(labels)
        except redis.RedisError as error:
            raise ProblemError(
                status=503,
                title="Redis is gone",
                detail="the labels are in the offline log but correct nothing yet: send them again",
                headers={"Retry-After": "1"},
            ) from error
        for outcome in outcomes:
            self.telemetry.labels.labels(str(outcome)).inc()
        return LabelsResponse(
            outcomes=[str(outcome) for outcome in outcomes],
            learned=sum(outcome is Learned.LEARNED for outcome in outcomes),
        )

    def _log(self, labels: Sequence[Label]) -> None:
        if self._labels is None:
            return
        try:
            self._labels.append(labels)
        except OSError as error:
            raise ProblemError(
                status=503,
                title="Labels cannot be kept",
                detail="the disk of the label log takes nothing; send them again later",
                headers={"Retry-After": "1"},
            ) from error

    def neighbours(self, prediction_id: str, *, k: int) -> NeighboursResponse:
        """What would be said now of a flow, and of the recent flows that are like it.

        Raises:
            ProblemError: 404 where its final verdict is not kept.
        """
        if self._recent_stream is not None:
            with suppress(redis.RedisError):  # what this replica saw is still known
                self._recent_stream.bring(self._recent)
        found = self._recent.near(prediction_id, k=k)
        serving = self._version.serving
        version = None if serving is None else serving.served.version
        if found is None or serving is None or found[0].verdict.model_version != version:
            raise ProblemError(
                status=404,
                title="Unknown flow",
                detail="no recent final verdict of the version that serves has this id; classify "
                "the flow again",
            )
        corrector = serving.corrector
        now = corrector.correct(
            np.stack([each.verdict.own for each in found]),
            np.stack([each.verdict.hidden for each in found]),
        )
        names = serving.served.edition.names(now, corrector.classes)
        return NeighboursResponse(
            flows=[
                FlowNow(
                    verdict=StreamVerdict.model_validate(each.verdict.to_json()),
                    similarity=round(each.similarity, 4),
                    label=names[row],
                    confidence=round(float(now[row].max()), 6),
                )
                for row, each in enumerate(found)
            ]
        )

    def remembered(self) -> list[Remembered]:
        """The memory of the version that classifies, where there is one."""
        serving = self._version.serving
        memory = None if serving is None else serving.memory
        return [] if memory is None else [memory.remembered()]

    def close(self) -> None:
        """End the live source and every listener's stream."""
        self.hub.close()
        if self._watcher is not None:
            self._watcher.close()
        self._version.close()
        if self.relay is not None:
            self.relay.close()

    def collect(self) -> Iterator[Metric]:
        """What `/metrics` says of traffic, for a `prometheus_client` registry."""
        yield from self.telemetry.registry.collect()
        if self._watcher is not None:
            yield from self._watcher.collect()

    def _emit(self, verdicts: list[Verdict], by: Serving) -> None:
        """Tell of an edition's verdicts; its own memory keeps them, also behind a switch."""
        self.telemetry.said(verdicts)
        self.hub.write(verdicts)
        if self.relay is not None:
            self.relay.write(verdicts)
        self._recent.write(verdicts)
        if by.memory is not None:
            by.memory.write(verdicts)

    def _show_drift(self) -> None:
        serving = self._version.serving
        if serving is not None and serving.memory is not None:
            drift = serving.memory.replica.drift
            names = (MODEL_NAME, serving.served.version)
            self.telemetry.error.labels(*names).set(drift.error)
            self.telemetry.rises.labels(*names).set(drift.rises)
