"""How the memory of a recommender is read, until `errata memory tune --apply` says otherwise."""

from __future__ import annotations

from feature_store.error_memory import MemoryPolicy

# Below this many counted outcomes the memory watches and does not speak.
PROBATION = 200

DEFAULT_POLICY = MemoryPolicy.model_validate(
    {
        "probation": PROBATION,
        "base_prior": 0.5,
        "learning_rate": 0.05,
        "evidence": 3.0,
        "source_share": 0.05,
        "source_slots": 0.25,
        "kernels": [
            {"beta": beta, "half_life": half_life, "gamma": 0.0}
            for beta in (3, 30)
            for half_life in (1_000, 20_000)
        ],
        "sketches": [{"bits": 0, "half_life": 2_000, "gamma": 0.0}],
    }
)
