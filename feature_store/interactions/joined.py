"""The item graph's joins out of core: what `graph.py` computes in memory, DuckDB computes on disk.

Items that share things are a join of a table with itself, and the join is larger than the table by
the square of how many items a thing has. DuckDB (Raasveldt and Mühleisen, SIGMOD 2019) keeps what
exceeds its memory limit in files, the table, the join's groups and the ranking alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from feature_store.interactions.graph import Edges, normalise

if TYPE_CHECKING:
    import duckdb

# Joined pairs of one statement: below it DuckDB rarely has to write anything.
PAIRS_AT_ONCE = 20_000_000

_EDGES = """
    SELECT d.item AS destination, s.item AS source, sum(d.weight * s.weight) AS strength,
           count(*) AS shared
    FROM (SELECT * FROM pairs WHERE item >= $first AND item < $last) d JOIN pairs s USING (thing)
    WHERE s.item >= $source_first AND s.item < $source_last AND s.item != d.item
    GROUP BY d.item, s.item
    HAVING count(*) >= $min_shared
    QUALIFY row_number() OVER (PARTITION BY d.item ORDER BY strength DESC, s.item) <= $top_k
    ORDER BY destination, strength DESC, source
"""


def pairs_of(incidence: sp.csr_matrix) -> int:
    """How many rows the join of an incidence matrix (n_items, n_things) with itself has."""
    degrees = np.bincount(incidence.indices, minlength=incidence.shape[1]).astype(np.int64)
    return int((degrees**2).sum())


@dataclass(frozen=True)
class JoinedIncidence:
    """A relation's incidence matrix as a table on disk; see `on_disk`."""

    connection: duckdb.DuckDBPyConnection
    items: int
    # (n_items,) joined pairs of each destination
    pairs: NDArray[np.int64]

    def strongest(self, source_rows: range, rows: range, *, top_k: int, min_shared: int) -> Edges:
        """What `graph.ItemGraph.build` keeps of this relation from `source_rows` to `rows`."""
        counts, columns = [], []
        for first, last in self._blocks(rows):
            found = self.connection.execute(
                _EDGES,
                {
                    "first": first, "last": last, "source_first": source_rows.start,
                    "source_last": source_rows.stop, "min_shared": max(min_shared, 1),
                    "top_k": top_k,
                },
            ).fetchnumpy()  # fmt: skip
            counts.append(np.bincount(found["destination"] - first, minlength=last - first))
            columns.append([found["source"], found["strength"], found["shared"]])
        source, strength, shared = (np.concatenate(each) for each in zip(*columns, strict=True))
        return Edges(
            indptr=np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64),
            source=source.astype(np.int64) - source_rows.start,
            strength=strength.astype(np.float32),
            shared=shared.astype(np.int64),
        )

    def _blocks(self, rows: range) -> Iterator[tuple[int, int]]:
        """Consecutive destinations, of about `PAIRS_AT_ONCE` joined pairs together."""
        if not len(rows):
            yield rows.start, rows.stop
            return
        places = self.pairs[rows.start : rows.stop].cumsum() // PAIRS_AT_ONCE
        starts = np.flatnonzero(np.diff(places, prepend=-1)) + rows.start
        for first, last in zip(starts, [*starts[1:], rows.stop], strict=True):
            yield int(first), int(last)


@contextmanager
def on_disk(incidence: sp.csr_matrix, *, memory_mb: int) -> Iterator[JoinedIncidence]:
    """The incidence matrix as a table in a file that goes with the block.

    Args:
        incidence: (n_items, n_things), who has what.
        memory_mb: that DuckDB may use; the rest is in files of the temporary directory.
    """
    import duckdb

    normalised = normalise(incidence)
    degrees = np.bincount(normalised.indices, minlength=normalised.shape[1]).astype(np.int64)
    item = np.repeat(np.arange(normalised.shape[0]), np.diff(normalised.indptr))
    pairs = np.bincount(item, degrees[normalised.indices], minlength=normalised.shape[0])
    with tempfile.TemporaryDirectory(prefix="errata-graph-") as directory:
        connection = duckdb.connect(
            Path(directory) / "graph.duckdb",
            config={
                "memory_limit": f"{memory_mb}MB",
                "temp_directory": directory,
                "threads": 1,
                "preserve_insertion_order": False,
            },
        )
        try:
            table = {
                "item": item.astype(np.int32),
                "thing": normalised.indices.astype(np.int32),
                "weight": normalised.data.astype(np.float64),
            }
            connection.register("given", table)
            connection.execute("CREATE TABLE pairs AS SELECT * FROM given")
            connection.unregister("given")
            yield JoinedIncidence(connection, normalised.shape[0], pairs.astype(np.int64))
        finally:
            connection.close()
