"""A verdict as it waits in Redis for the label of its flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import orjson
from numpy.typing import NDArray

from feature_store.traffic.flows.packing import pack_flow
from services.classify.verdict import Verdict

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class WaitingVerdict:
    """What the error memory needs of a verdict once a label comes.

    Attributes:
        version: that classified the flow. time_ns: when.
        own: (classes,) its probabilities. hidden: (h,) its representation of the flow.
        losses: (columns, E + 1) of each expert and the mixture, were the label that column's.
        case: the flow, packed; empty where no later version is to read it again.
    """

    version: str
    time_ns: int
    own: FloatArray
    hidden: FloatArray
    losses: FloatArray
    case: bytes

    @classmethod
    def of(cls, verdict: Verdict, losses: FloatArray, *, raw: bool, key: bytes) -> Self:
        """Of a verdict; `raw` keeps packets' bytes, `key` hides addresses: see `pack_flow`."""
        seen = verdict.seen
        case = b"" if seen is None else pack_flow(seen, verdict.packet, raw=raw, key=key)
        return cls(
            verdict.model_version, verdict.time_ns, verdict.own, verdict.hidden, losses, case
        )

    def pack(self) -> bytes:
        """As it is kept."""
        facts = orjson.dumps(
            [self.version, self.time_ns, len(self.own), len(self.hidden), *self.losses.shape,
             len(self.case)]
        )  # fmt: skip
        arrays = (
            self.own.astype("<f4").tobytes()
            + self.hidden.astype("<f4").tobytes()
            + np.minimum(self.losses, 100).astype("<f2").tobytes()
            + self.case
        )
        return len(facts).to_bytes(4, "little") + facts + arrays

    @classmethod
    def unpack(cls, raw: bytes) -> Self:
        """Inverse of `pack`."""
        begin = 4 + int.from_bytes(raw[:4], "little")
        # What an earlier release kept has no case behind it.
        facts = (*orjson.loads(raw[4:begin]), 0)[:7]
        version, time_ns, classes, width, columns, experts, length = facts
        floats = np.frombuffer(raw, "<f4", classes + width, begin).astype(np.float32)
        losses = np.frombuffer(raw, "<f2", columns * experts, begin + 4 * (classes + width))
        return cls(
            version,
            int(time_ns),
            floats[:classes],
            floats[classes:],
            losses.reshape(columns, experts).astype(np.float32),
            raw[len(raw) - length :] if length else b"",
        )
