"""Tables sorted out by user into buckets that fit in memory: the first half of a hash join."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl

from pipelines.scoring.output import STAGED, Output

HASH_SEED = 0
BUFFER_BYTES = 256 << 20
MOST_BUCKETS = 4_096


def bucket_count(*, input_bytes: int, bucket_bytes: int) -> int:
    """How many buckets make each about `bucket_bytes` of input."""
    return max(1, min(MOST_BUCKETS, -(-input_bytes // bucket_bytes)))


def stage(
    output: Output,
    table: str,
    chunks: Iterable[pl.DataFrame],
    *,
    buckets: int,
    buffer_bytes: int = BUFFER_BYTES,
) -> None:
    """Write the rows of `chunks`, each to the bucket of its `user_id`, in their order.

    At most `buffer_bytes` wait in memory.
    """
    waiting: list[pl.DataFrame] = []
    size = turn = 0
    for chunk in chunks:
        waiting.append(chunk)
        size += int(chunk.estimated_size())
        if size >= buffer_bytes:
            _flush(output, table, waiting, buckets=buckets, turn=turn)
            size, turn = 0, turn + 1
            waiting.clear()
    if waiting:
        _flush(output, table, waiting, buckets=buckets, turn=turn)


class Staged:
    """What `stage` wrote, by bucket."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._names: dict[str, dict[int, list[str]]] = {}

    def read(self, table: str, bucket: int) -> pl.DataFrame | None:
        """A bucket's rows in the order in which they came, or None where there are none."""
        if table not in self._names:
            self._names[table] = self._list(table)
        parts = list(
            self._output.read_tables(f"{STAGED}/{table}", self._names[table].get(bucket, []))
        )
        return pl.concat(parts) if parts else None

    def _list(self, table: str) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for name in self._output.names(f"{STAGED}/{table}"):
            found.setdefault(int(name.partition("-")[0]), []).append(name)
        return found


def _flush(
    output: Output, table: str, chunks: list[pl.DataFrame], *, buckets: int, turn: int
) -> None:
    for bucket, rows in _by_bucket(pl.concat(chunks), buckets):
        output.write_table(f"{STAGED}/{table}/{bucket:05}-{turn:05}.parquet", rows)


def _by_bucket(rows: pl.DataFrame, buckets: int) -> Iterator[tuple[int, pl.DataFrame]]:
    # The hash need only be the same within one staging: what it sorted out is kept until the end.
    bucket = (pl.col("user_id").hash(HASH_SEED) % buckets).alias("#bucket")
    parts = rows.with_columns(bucket).partition_by("#bucket", include_key=False, as_dict=True)
    for (number,), part in parts.items():
        yield int(number), part
