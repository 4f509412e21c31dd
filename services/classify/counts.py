"""What a stream gave, what it gave up, and how long it took."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.classify.policy import Shed
from services.classify.verdict import Reason, Verdict

RECENT = 8192  # latencies that quantiles are of


@dataclass
class StreamCounts:
    """Counted since the stream began.

    Every kept packet of a flow, up to its final verdict, has a verdict or is shed; every flow that
    ended has a final verdict or is counted as one without.

    Attributes:
        flows: that had a packet.
        evicted: flows that ended because more ran at once than the table holds.
        verdicts: by reason.
        labels: of final verdicts.
        shed: what was given up.
        latency_ns: the newest; from a packet to the verdict that was made after it.
    """

    flows: int = 0
    evicted: int = 0
    verdicts: Counter[Reason] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    shed: Counter[Shed] = field(default_factory=Counter)
    latency_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def final(self) -> int:
        """Final verdicts."""
        return sum(count for reason, count in self.verdicts.items() if reason != Reason.PROVISIONAL)

    def add(self, verdict: Verdict, latency_ns: int | None) -> None:
        """Count a verdict; a flow that ended in silence has no packet to be late for."""
        self.verdicts[verdict.reason] += 1
        if verdict.final:
            self.labels[verdict.label] += 1
        if latency_ns is not None:
            self.latency_ns.append(latency_ns)

    def latency_ms(self, quantile: float) -> float:
        """A quantile of the newest latencies, 0 where there is none."""
        if not self.latency_ns:
            return 0.0
        return float(np.quantile(np.array(self.latency_ns), quantile)) / 1e6

    def to_json(self) -> dict[str, Any]:
        """For the last line of a report."""
        return {
            "flows": self.flows,
            "evicted": self.evicted,
            "verdicts": {str(reason): count for reason, count in self.verdicts.items()},
            "labels": dict(self.labels.most_common()),
            "shed": {str(shed): self.shed[shed] for shed in Shed},
            "latency_ms": {
                "p50": round(self.latency_ms(0.5), 3),
                "p99": round(self.latency_ms(0.99), 3),
            },
        }
