"""How the memory of a traffic model is read; chosen on ISCX's validation captures."""

from __future__ import annotations

from feature_store.error_memory import Kernel, MemoryPolicy, Sketch

DEFAULT_POLICY = MemoryPolicy(
    kernels=tuple(
        Kernel(beta=beta, half_life=half_life, gamma=gamma)
        for beta, half_life in ((6.0, 15.0), (9.0, 60.0), (15.0, 300.0))
        for gamma in (0.0, 1.0)
    ),
    # Labels are few and neighbours far apart: buckets would tear them asunder. Two, both of which
    # are looked at, are the newest entries; what is older lives on in the sketch.
    capacity=1024,
    slots=512,
    bits=1,
    probes=2,
    sketches=(Sketch(bits=14, tables=16, gamma=0.0),),
    evidence=0.1,
    # Too few labels to find out which expert is best: all of them nearly alike.
    learning_rate=0.2,
    source_slots=0.5,
)
