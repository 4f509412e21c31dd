"""One replica's copy of a memory, kept up to date by a thread that tails the stream."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import redis
from numpy.typing import NDArray
from pydantic import ValidationError

from feature_store.error_memory.batch import ErrorBatch
from feature_store.error_memory.drift import Alarm, DriftStats, ErrorWatch
from feature_store.error_memory.log import Control, MemoryLog
from feature_store.error_memory.memory import ErrorMemory
from feature_store.error_memory.policy import MemoryPolicy
from feature_store.error_memory.reading import Reading
from feature_store.error_memory.wire import CorruptEntryError
from feature_store.pacing import Pause, no_pause

log = logging.getLogger(__name__)
FloatArray = NDArray[np.float32]
_BLOCK_MS = 100
_RETRY_S = 0.2
_RENEW_EVERY_S = 3_600.0


@dataclass(frozen=True)
class _Rules:
    """What the decisions of the control stream amount to."""

    policy: MemoryPolicy
    forgotten: NDArray[np.uint64]  # sources
    cut: NDArray[np.uint64]  # single entries, by their feedback ids

    @classmethod
    def of(cls, policy: MemoryPolicy, controls: Sequence[Control]) -> _Rules:
        """The last switch and the last policy win; what was forgotten stays so."""
        forgotten, cut = [], []
        for control in controls:
            if control.kind == "policy":
                policy = _policy(control) or policy
            elif control.kind in ("on", "off"):
                policy = policy.model_copy(update={"enabled": control.kind == "on"})
            elif control.kind == "forget":
                forgotten.append(int(control.values["id"]))
            elif control.kind == "cut":
                cut.append(int(control.values["id"]))
        return cls(policy, np.array(forgotten, np.uint64), np.array(cut, np.uint64))


def _policy(control: Control) -> MemoryPolicy | None:
    try:
        return MemoryPolicy.model_validate(control.values)
    except ValidationError as error:  # of a newer release, or nobody's
        log.error("a policy that cannot be read is left out: %s", str(error).splitlines()[0])
        return None


class MemoryReplica:
    """Reads without a round trip; what others wrote is visible as soon as the stream brings it.

    While Redis is away the memory stays as it was (`fresh` is False) and answers go on. A decision
    in the control stream (a forgotten source, a switch, another policy) rebuilds the memory from
    the stream beside the old one.

    Example:
        >>> replica = MemoryReplica(log, policy, d=32, n_classes=3)    # doctest: +SKIP
        >>> replica.catch_up(); replica.start()
        >>> replica.read(keys, predictions).corrected
    """

    def __init__(
        self,
        stream: MemoryLog,
        policy: MemoryPolicy,
        *,
        d: int,
        n_classes: int,
        known_classes: int | None = None,
        on_change: Callable[[], None] | None = None,
        on_drift: Callable[[Alarm], None] = lambda _: None,
    ) -> None:
        """`policy` holds until the control stream names another; `on_drift`: is told when the
        model's errors become more, not of what had happened before the start."""
        self._stream = stream
        self._default = policy
        self._shape = {"d": d, "n_classes": n_classes, "known_classes": known_classes}
        self._on_change, self._on_drift = on_change, on_drift
        self._watch = ErrorWatch()
        self._rules = _Rules.of(policy, ())
        self._memory = self._empty()
        self._position, self._control = 0, "0-0"
        self._renew_at = 0.0
        self._server = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.fresh = False

    @property
    def memory(self) -> ErrorMemory:
        """The memory as it is now."""
        return self._memory

    @property
    def policy(self) -> MemoryPolicy:
        """The policy that holds."""
        return self._rules.policy

    @property
    def drift(self) -> DriftStats:
        """How the model's own errors go."""
        return self._watch.stats()

    @property
    def forgotten(self) -> NDArray[np.uint64]:
        """Hashes of the sources that are left out."""
        return self._rules.forgotten

    @property
    def position(self) -> int:
        """Entries of the stream that are in."""
        return self._position

    def read(self, keys: FloatArray, predictions: FloatArray) -> Reading:
        """See `ErrorMemory.read`."""
        return self._memory.read(keys, predictions)

    def catch_up(self, pause: Pause = no_pause) -> int:
        """Read the decisions and then everything that the stream keeps, with a `pause` after each
        batch; returns the entries read.

        Raises:
            redis.RedisError: the server is gone.
        """
        self._server = self._stream.server_id()
        controls, last = self._stream.controls()
        self._rules = _Rules.of(self._default, controls)
        memory, position, self._watch = self._empty(), 0, ErrorWatch()
        for position, batch in self._stream.entries():
            self._write(memory, position, batch)
            pause()
        self._memory, self._position, self._control = memory, position, last
        self.fresh = True
        return memory.written

    def start(self) -> None:
        """Tail the stream until `stop`."""
        self._thread = threading.Thread(target=self._tail, name="errata-memory", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def poll(self, *, block_ms: int = 0) -> None:
        """Take in what is new; waits up to `block_ms` (0: not at all) for something.

        Raises:
            redis.RedisError: the server is gone.
        """
        entries, news = self._stream.wait(
            after=self._position, after_control=self._control, block_ms=block_ms or 1
        )
        for position, batch in entries:
            alarm = self._write(self._memory, position, batch)
            self._position = position
            if alarm is not None:
                self._on_drift(alarm)
        if news and not self._switched():
            self.catch_up()
        if (news or entries) and self._on_change is not None:
            self._on_change()

    def _switched(self) -> bool:
        """Follow a switch at once; False where something else was decided, for which the memory
        is read anew."""
        controls, last = self._stream.controls()
        rules, before = _Rules.of(self._default, controls), self._rules
        same = {"enabled": before.policy.enabled}
        if (
            rules.policy.model_copy(update=same) != before.policy
            or not np.array_equal(rules.forgotten, before.forgotten)
            or not np.array_equal(rules.cut, before.cut)
        ):
            return False
        self._memory.policy = rules.policy
        self._rules, self._control = rules, last
        return True

    def _tail(self) -> None:
        while not self._stop.is_set():
            try:
                if not self.fresh:
                    self._recover()
                if time.monotonic() >= self._renew_at:
                    self._stream.renew()
                    if self._stream.position() < self._position:  # somebody emptied it
                        self.catch_up()
                    self._renew_at = time.monotonic() + _RENEW_EVERY_S
                self.poll(block_ms=_BLOCK_MS)
            except redis.RedisError as error:
                if self.fresh:
                    log.warning("the error memory is frozen while Redis is away: %s", error)
                self.fresh = False
                self._stop.wait(_RETRY_S)
            except Exception:  # answers go on, and what comes next may be read again
                log.exception("the error memory could not follow its stream")
                self.fresh = False
                self._stop.wait(_RETRY_S)

    def _recover(self) -> None:
        """After an outage: a server that started anew, or stands in for another, may lack the
        newest entries, and others may have been written in their places."""
        if (
            self._stream.server_id() != self._server
            or self._stream.position() < self._position
            or self._position == 0
        ):
            self.catch_up()
        self.fresh = True

    def _write(self, memory: ErrorMemory, position: int, batch: ErrorBatch) -> Alarm | None:
        # An entry's number is its place in the stream, whatever is left out of the memory.
        memory.advance(position - len(batch))
        kept = ~np.isin(batch.sources, self._rules.forgotten)
        kept &= ~np.isin(batch.feedback_ids, self._rules.cut)
        alarm = None
        try:
            batch = batch if kept.all() else batch[kept]
            memory.write(batch)
            alarm = self._watch.see(batch, position)
        except (ValueError, CorruptEntryError) as error:
            log.error("entries before %d do not fit and were left out: %s", position, error)
        memory.advance(position)
        return alarm

    def _empty(self) -> ErrorMemory:
        return ErrorMemory(self._rules.policy, **self._shape)  # type: ignore[arg-type]
