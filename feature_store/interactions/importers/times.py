"""Times as data sets write them: Unix seconds, Unix milliseconds, ISO 8601."""

from collections.abc import Callable
from functools import partial

import polars as pl

from feature_store.interactions.schema import TIMESTAMP

_FIRST_MS = 1e11  # as seconds, the year 5138; as milliseconds, March 1973
_LAST_MS = 1e14


def read_times(values: pl.Series) -> pl.Series:
    """The times in `TIMESTAMP`, null where they cannot be read.

    Numbers are Unix seconds below 1e11 and Unix milliseconds from there on; text is a number or
    ISO 8601, UTC where it names no zone. Numbers from 1e14 on (microseconds) are not read, nor
    years beyond 1 to 9999, which Python's own dates do not hold.
    """
    times = _read(values).alias("time").to_frame()
    readable = pl.col("time").dt.year().is_between(1, 9999)
    return times.select(pl.when(readable).then("time")).to_series()


def _read(values: pl.Series) -> pl.Series:
    dtype = values.dtype
    if dtype.is_numeric():
        return _unix_times(values)
    if isinstance(dtype, pl.Datetime):
        zoned = values if dtype.time_zone else values.dt.replace_time_zone("UTC")
        return zoned.cast(TIMESTAMP)
    if dtype != pl.String:
        return values.cast(TIMESTAMP)
    times = pl.Series([None], dtype=TIMESTAMP).new_from_index(0, len(values))
    for parse in _TIME_FORMATS:
        # Each only where those before it failed: together they take ten times as long as one.
        unread = times.is_null().arg_true()
        if unread.is_empty():
            break
        times = times.scatter(unread, parse(values.gather(unread)))
    return times


def _unix_times(values: pl.Series) -> pl.Series:
    number = pl.lit(values.cast(pl.Float64, strict=False))
    size = number.abs()
    ms = pl.when(size < _FIRST_MS).then(number * 1000).when(size < _LAST_MS).then(number)
    return pl.select(ms.round().cast(pl.Int64, strict=False).cast(TIMESTAMP)).to_series()


def _iso_times(values: pl.Series) -> pl.Series:
    return _with_t(values).str.strptime(TIMESTAMP, "%+", strict=False)


def _naive_times(values: pl.Series, *, written: str) -> pl.Series:
    times = _with_t(values).str.strptime(pl.Datetime("ms"), written, strict=False)
    return times.dt.replace_time_zone("UTC")


def _with_t(values: pl.Series) -> pl.Series:
    return values.str.replace(" ", "T", literal=True)


_TIME_FORMATS: tuple[Callable[[pl.Series], pl.Series], ...] = (
    _unix_times,
    _iso_times,
    partial(_naive_times, written="%Y-%m-%dT%H:%M:%S%.f"),
    partial(_naive_times, written="%Y-%m-%dT%H:%M"),
    partial(_naive_times, written="%Y-%m-%d"),
)
