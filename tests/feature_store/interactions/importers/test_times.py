from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.interactions.importers.times import read_times
from feature_store.interactions.schema import TIMESTAMP


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("881250949", datetime(1997, 12, 4, 15, 55, 49)),
        ("881250949.0", datetime(1997, 12, 4, 15, 55, 49)),
        ("881250949123", datetime(1997, 12, 4, 15, 55, 49, 123000)),
        ("0", datetime(1970, 1, 1)),
        ("-1", datetime(1969, 12, 31, 23, 59, 59)),
        ("2026-03-04", datetime(2026, 3, 4)),
        ("2026-03-04 05:06", datetime(2026, 3, 4, 5, 6)),
        ("2026-03-04T05:06:07", datetime(2026, 3, 4, 5, 6, 7)),
        ("2026-03-04T05:06:07.5Z", datetime(2026, 3, 4, 5, 6, 7, 500000)),
        ("2026-03-04 05:06:07+02:00", datetime(2026, 3, 4, 3, 6, 7)),
    ],
)
def test_a_time_is_unix_seconds_unix_milliseconds_or_iso_8601(
    written: str, meant: datetime
) -> None:
    assert read_times(pl.Series([written])).to_list() == [meant.replace(tzinfo=UTC)]


@pytest.mark.parametrize("written", ["yesterday", "", "nan", "inf", "1e300", "2026-13-01", "1e15"])
def test_other_times_are_null(written: str) -> None:
    assert read_times(pl.Series([written])).to_list() == [None]


def test_one_column_may_mix_them() -> None:
    times = read_times(pl.Series(["no", "2026-01-01", "10", "2026-01-01 00:00", "10000000000000"]))
    new_year = datetime(2026, 1, 1, tzinfo=UTC)
    assert times.to_list()[:4] == [
        None,
        new_year,
        datetime(1970, 1, 1, 0, 0, 10, tzinfo=UTC),
        new_year,
    ]
    assert times.dtype == TIMESTAMP
    assert read_times(pl.Series([], dtype=pl.String)).to_list() == []


@pytest.mark.parametrize(
    "values",
    [
        pl.Series([1_767_225_600]),
        pl.Series([1_767_225_600_000.0]),
        pl.Series([date(2026, 1, 1)]),
        pl.Series([datetime(2026, 1, 1)], dtype=pl.Datetime("ns")),
        pl.Series([datetime(2026, 1, 1)])
        .dt.replace_time_zone("UTC")
        .dt.convert_time_zone("Asia/Tokyo"),
    ],
)
def test_typed_columns_keep_their_moment(values: pl.Series) -> None:
    times = read_times(values)
    assert times.dtype == TIMESTAMP
    assert times.to_list() == [datetime(2026, 1, 1, tzinfo=UTC)]


@given(st.datetimes(datetime(1974, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))
def test_what_python_writes_is_read(moment: datetime) -> None:
    expected = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    ms = round(expected.timestamp() * 1000)
    times = read_times(pl.Series([moment.isoformat(), moment.isoformat(" "), str(ms)]))
    assert times.to_list() == [expected] * 3
