"""Which index to build, and how hard it searches."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["flat", "hnsw", "ivf", "ivfpq"]

# Up to here an exact scan costs about 5 ms on one core and needs no tuning (100k × 128: 5.1 ms).
FLAT_LIMIT = 50_000
# Above this a graph takes minutes to build and lists are as fast (1M × 64: 0.39 ms).
HNSW_LIMIT = 200_000
LISTS_PER_ROOT = 4  # FAISS's rule of thumb: 4·√n lists


class IndexSpec(BaseModel):
    """What to build. `auto` decides by the number of vectors; `errata index build` measures.

    Attributes:
        kind: `flat` scans exactly; `hnsw` walks a graph; `ivf` scans the nearest lists; `ivfpq`
            scans compressed codes of the nearest lists and re-scores the best exactly.
        n_lists: lists of an inverted file; None is 4·√n.
        n_probe: lists that are scanned.
        pq_dimensions: dimensions that share one 4-bit code.
        refine_factor: that many times k codes are re-scored exactly.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["auto", "flat", "hnsw", "ivf", "ivfpq"] = "auto"
    hnsw_neighbours: int = Field(32, ge=4, le=128)
    hnsw_ef_construction: int = Field(200, ge=8)
    hnsw_ef_search: int = Field(200, ge=8)
    n_lists: int | None = Field(None, ge=1)
    n_probe: int = Field(64, ge=1)
    pq_dimensions: int = Field(2, ge=1)
    refine_factor: int = Field(10, ge=1)

    def resolve(self, n_vectors: int) -> IndexSpec:
        """The spec with what was left open decided for a catalogue of `n_vectors`."""
        kind = self.kind
        if kind == "auto":
            kind = "hnsw" if n_vectors <= HNSW_LIMIT else "ivfpq"
            kind = "flat" if n_vectors <= FLAT_LIMIT else kind
        n_lists = self.n_lists or round(LISTS_PER_ROOT * n_vectors**0.5)
        n_lists = max(1, min(n_lists, n_vectors))
        return self.model_copy(
            update={"kind": kind, "n_lists": n_lists, "n_probe": min(self.n_probe, n_lists)}
        )
