import csv
import io

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feature_store.interactions.importers.delimited import read_delimited, read_lines
from feature_store.interactions.rejects import LINE, ROW, Rejects


def read(
    data: bytes, *, columns: tuple[str, ...] | None = None, quoted: bool = True
) -> tuple[pl.DataFrame, Rejects]:
    rejects = Rejects()
    frame = read_delimited(
        data, file="f.csv", rejects=rejects, separator=",", columns=columns, quoted=quoted
    )
    return frame, rejects


def places(rejects: Rejects) -> list[tuple[int, str]]:
    return [(reject.line, reject.reason) for reject in rejects.first(100)]


def test_lines_keep_their_number_and_raw_form() -> None:
    frame, rejects = read(b"a,b\r\n1,2\r\n\r\n3,\n")
    assert frame.rows() == [(2, "1,2", "1", "2"), (4, "3,", "3", "")]
    assert frame.columns == [LINE, ROW, "a", "b"]
    assert (rejects.total, rejects.count) == (2, 0)


def test_lines_of_a_wrong_length_are_rejected_not_padded_or_cut() -> None:
    frame, rejects = read(b"a,b\n1\n1,2\n1,2,3")
    assert frame["a"].to_list() == ["1"]
    assert places(rejects) == [(2, "wrong number of columns"), (4, "wrong number of columns")]
    assert rejects.total == 3


def test_a_bad_byte_costs_its_line_only() -> None:
    frame, rejects = read("a,b\né,1\n".encode() + b"\xe9,2\nz,3\n")
    assert frame["a"].to_list() == ["é", "z"]
    assert frame[LINE].to_list() == [2, 4]
    assert places(rejects) == [(3, "invalid UTF-8")]
    assert rejects.first()[0].row == r"\xe9,2"
    assert rejects.total == 3


def test_quoted_fields_may_hold_separators_quotes_and_line_ends() -> None:
    frame, rejects = read(b'a,b\n1,"x, ""y"""\n2,"two\n\nlines"\n3,5" disk\n')
    assert frame["b"].to_list() == ['x, "y"', "two\n\nlines", '5" disk']
    assert frame[LINE].to_list() == [2, 3, 6]
    assert (rejects.total, rejects.count) == (3, 0)


def test_a_quote_that_is_never_closed_costs_its_line_only() -> None:
    frame, rejects = read(b'a,b\n1,"open\n2,x\n3,y\n')
    assert frame["a"].to_list() == ["2", "3"]
    assert places(rejects) == [(2, "malformed quotes")]
    assert rejects.total == 3


def test_quotes_are_ordinary_where_the_format_has_none() -> None:
    frame, rejects = read(b'a,b\n"1,2"\n', quoted=False)
    assert frame.row(0)[2:] == ('"1', '2"')
    assert rejects.count == 0


def test_a_byte_order_mark_is_no_part_of_the_header() -> None:
    assert read(b"\xef\xbb\xbfa,b\n1,2\n")[0].columns[2:] == ["a", "b"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"a,a\n", "named twice"),
        (b"a,\n", "without a name"),
        (b'"a,b\n1,2\n', "malformed header"),
        (b"\xff,b\n1,2\n", "header is not UTF-8"),
        (b"\n\xff,b\n1,2\n", "header is not UTF-8"),
    ],
)
def test_a_header_that_cannot_be_meant_is_an_error(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(data)


def test_latin_1_and_a_separator_of_two_characters() -> None:
    frame = read_delimited(
        "1::Misérables, Les::Drama\n".encode("latin-1"),
        file="movies.dat",
        rejects=Rejects(),
        separator="::",
        columns=("id", "title", "genres"),
        encoding="latin-1",
    )
    assert frame["title"].to_list() == ["Misérables, Les"]


def test_no_rows_and_one_column() -> None:
    assert read(b"", columns=("a",))[0].shape == (0, 3)
    assert read(b"x\ny\n", columns=("a",))[0]["a"].to_list() == ["x", "y"]


PIECES = st.sampled_from([b"a", b"1", b",", b"\xff", "é".encode(), b" ", b"\n", b"\r\n", b"."])


@given(st.lists(PIECES, max_size=60).map(b"".join))
def test_every_line_is_read_or_rejected(data: bytes) -> None:
    frame, rejects = read(data, columns=("a", "b"))
    written = [line for line in data.split(b"\n") if line.strip()]
    assert frame.height + rejects.count == rejects.total == len(written)
    lines = read_lines(data, file="f", rejects=Rejects())
    assert lines[ROW].to_list() == [
        text.rstrip("\r") for line in written if "�" not in (text := line.decode(errors="replace"))
    ]


CELL = st.text(st.sampled_from('ab",\n é'), max_size=5)


@given(st.lists(st.tuples(CELL, CELL), max_size=8))
@example([('"', '"\n"')])
def test_what_the_standard_library_writes_is_read(rows: list[tuple[str, str]]) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    frame, rejects = read(out.getvalue().encode(), columns=("a", "b"))
    assert frame.select("a", "b").rows() == rows
    assert (rejects.total, rejects.count) == (len(rows), 0)


@given(st.text(st.sampled_from('a",\n'), max_size=40))
def test_any_quoting_ends_in_rows_or_rejects(text: str) -> None:
    frame, rejects = read(text.encode(), columns=("a", "b"))
    assert frame.height + rejects.count == rejects.total
    kept = sum(row.count("\n") + 1 for row in frame[ROW]) + rejects.count
    blank = sum(not line for line in text.split("\n"))
    assert text.count("\n") + 1 - blank <= kept <= text.count("\n") + 1
