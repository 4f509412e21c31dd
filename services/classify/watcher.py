"""The live source of a service: classified on a thread of its own, looked for when it is gone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from feature_store.online import connect
from feature_store.traffic.capture import InterfaceUnavailableError, NotACaptureError
from services.classify.counts import StreamCounts
from services.classify.settings import ClassifySettings, Watch
from services.classify.sinks import RedisStream, Sink
from services.classify.source import Source, open_source
from services.classify.stream import StreamClassifier, classify
from services.classify.verdict import Verdict
from services.classify.version import Serving

log = logging.getLogger(__name__)


class Watcher:
    """Classifies a live source until it ends or the watcher is closed.

    An interface that goes away is looked for again; any other source that fails has ended.

    Attributes:
        status: what the source is doing, or why it is not.
        counts: of its verdicts since it was last opened; None before.
    """

    def __init__(
        self,
        watch: Watch,
        settings: ClassifySettings,
        *,
        serving: Callable[[], Serving],
        emit: Callable[[list[Verdict], Serving], None],
    ) -> None:
        """Begins at once. `emit` takes the verdicts and whose they are; `serving`, what classifies
        now, is asked behind each of them."""
        self.status: str | None = None
        self.counts: StreamCounts | None = None
        self._watch, self._settings = watch, settings
        self._serving, self._emit = serving, emit
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live source")
        self._thread.start()

    def close(self) -> None:
        """End it, and wait until it has."""
        self._stopped.set()
        self._thread.join()

    def collect(self) -> Iterator[Metric]:
        """What `/metrics` says of it."""
        counts = self.counts
        if counts is None:
            return
        verdicts = CounterMetricFamily(
            "errata_verdicts", "Verdicts of the live source", labels=["reason"]
        )
        for reason, count in list(counts.verdicts.items()):
            verdicts.add_metric([str(reason)], count)
        shed = CounterMetricFamily(
            "errata_verdicts_shed", "What the live source gave up", labels=["what"]
        )
        for what, count in list(counts.shed.items()):
            shed.add_metric([str(what)], count)
        evicted = CounterMetricFamily(
            "errata_flows_evicted", "Flows of the live source that ended for want of memory"
        )
        evicted.add_metric([], counts.evicted)
        latency = GaugeMetricFamily(
            "errata_verdict_latency_seconds", "Of the newest verdicts", labels=["quantile"]
        )
        for quantile in (0.5, 0.99):
            latency.add_metric([str(quantile)], counts.latency_ms(quantile) / 1e3)
        yield from (verdicts, shed, evicted, latency)

    def _run(self) -> None:
        while True:
            try:
                self._classify()
                return
            except InterfaceUnavailableError as error:
                gone = f"nothing is watched until it is back: {error}"
                if self.status != gone:
                    log.error("%s", gone)
                self.status = gone
            except (NotACaptureError, OSError, ValueError) as error:
                self.status = f"nothing is watched: {error}"
                log.error("%s", self.status)
                return
            except Exception:
                self.status = "nothing is watched: the classifier failed; the log says how"
                log.exception("the live source failed")
                return
            if self._stopped.wait(self._settings.refresh_s):
                return

    def _classify(self) -> None:
        watch = self._watch
        with ExitStack() as stack:
            source = stack.enter_context(
                open_source(
                    capture=watch.capture,
                    interface=watch.interface,
                    follow=watch.follow,
                    replay=watch.replay,
                    stop=self._stopped.is_set,
                )
            )
            self._say_all(source, self._serving())

    def _say_all(self, source: Source, serving: Serving) -> None:
        stream = StreamClassifier(
            serving.served,
            budget=self._watch.budget,
            clock=source.clock,
            corrector=serving.memory,
        )
        self.counts = stream.counts
        sinks: list[Sink] = []
        if self._watch.redis_stream and self._settings.redis_url:
            sinks.append(RedisStream(connect(self._settings.redis_url), self._watch.redis_stream))

        def say(verdicts: list[Verdict]) -> None:
            self._emit(verdicts, serving)
            for sink in sinks:
                sink.write(verdicts)

        self.status = f"watching {source.name}"
        try:
            for verdicts in classify(source, stream, stop=self._stopped.is_set):
                say(verdicts)
                if (now := self._serving()) is not serving:
                    serving = now
                    stream.use(serving.served, serving.memory)
        except InterfaceUnavailableError:
            for verdicts in stream.finish():  # what ran has ended, as far as can be seen
                say(verdicts)
            raise
        self.status = f"{source.name} has ended"
