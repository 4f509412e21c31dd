"""What the deployed model got wrong lately, and how the next prediction is corrected by it.

A model's prediction comes with a key, its own hidden representation of the case. When the outcome
is known, (key, label, prediction) is an entry. A read finds entries near a key, lets several
experts estimate what the outcome will be, and mixes them with the model's own prediction by what
each was worth lately. No gradient, no round trip.

Enter at `memory.py` (`ErrorMemory`: read, write) with a `policy.py`. Underneath: `neighbours.py`
(entries one by one) and `kernels.py` (what is heard of them), `sketches.py` (sums per bucket),
`hashing.py`, `mixture.py`; `lanes.py` has the loops that numba cannot say. `reference.py` says the
same slowly. `log.py`, `replica.py`, `outcomes.py` and `events.py` are its state in Redis.
"""

from feature_store.error_memory.batch import ErrorBatch
from feature_store.error_memory.memory import ErrorMemory
from feature_store.error_memory.policy import Kernel, MemoryPolicy, Sketch, named_policy
from feature_store.error_memory.reading import KeySpace, MemoryStats, Reading

__all__ = [
    "ErrorBatch",
    "ErrorMemory",
    "Kernel",
    "KeySpace",
    "MemoryPolicy",
    "MemoryStats",
    "Reading",
    "Sketch",
    "named_policy",
]
