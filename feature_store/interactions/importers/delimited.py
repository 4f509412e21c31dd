"""Delimited text to a frame of strings, with every line accounted for.

Lines are split by vectorised string functions rather than a CSV parser: a parser pads or cuts
lines of a wrong length, and a bad byte ends its work. Only lines with a quote in them take the
slow, standard way.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO

import polars as pl

from feature_store.interactions.rejects import LINE, ROW, Rejects

_BOM = b"\xef\xbb\xbf"
_QUOTE = '"'
_MAX_RECORD_LINES = 1000  # a quote that is never closed must not swallow the file

WRONG_COLUMNS = "wrong number of columns"
WRONG_QUOTES = "malformed quotes"
INVALID_UTF8 = "invalid UTF-8"


def read_delimited(
    data: bytes,
    *,
    file: str,
    rejects: Rejects,
    separator: str,
    columns: Sequence[str] | None = None,
    quoted: bool = False,
    encoding: str = "utf-8",
) -> pl.DataFrame:
    r"""Split `data` into columns of strings.

    Args:
        data: the file's content; blank lines are passed over, `\r\n` is a line's end too.
        file: the file's name, for `rejects`.
        rejects: gets the lines of a wrong length and those that are not UTF-8.
        separator: between columns; one or more characters.
        columns: their names; by default the first line is the header.
        quoted: fields may be quoted as in RFC 4180, with line ends inside.
        encoding: `utf-8`, or one in which every byte is valid, such as `latin-1`.

    Returns:
        `LINE` Int64, `ROW` String (the raw row), and the columns, String; in the file's order.

    Raises:
        ValueError: no header, a header that names a column twice or is not UTF-8.
    """
    lines = _lines(data, file=file, rejects=rejects, encoding=encoding)
    if columns is None:
        columns, lines = _header(lines, file=file, separator=separator, quoted=quoted)
    quotes = pl.col(ROW).str.contains(_QUOTE, literal=True)
    if not quoted or not lines.select(quotes.any()).item():
        return _split(lines, columns, file=file, rejects=rejects, separator=separator)

    records = _quoted_records(lines, width=len(columns), separator=separator)
    plain = lines.filter(~quotes & ~pl.col(LINE).is_in(records.consumed))
    for reason, malformed in records.malformed.items():
        rejects.reject(_places(malformed), file=file, reason=reason)
        rejects.saw(len(malformed))
    rejects.saw(len(records.rows))
    schema = {LINE: pl.Int64, ROW: pl.String} | dict.fromkeys(columns, pl.String)
    parsed = pl.DataFrame(records.rows, schema, orient="row")
    split = _split(plain, columns, file=file, rejects=rejects, separator=separator)
    return pl.concat([split, parsed]).sort(LINE)


def read_lines(data: bytes, *, file: str, rejects: Rejects) -> pl.DataFrame:
    """The lines that are not blank: `LINE` Int64 from 1, `ROW` String."""
    lines = _lines(data, file=file, rejects=rejects, encoding="utf-8").filter(_not_blank())
    rejects.saw(lines.height)
    return lines


def _lines(data: bytes, *, file: str, rejects: Rejects, encoding: str) -> pl.DataFrame:
    """All valid lines, blank ones too; the others are rejected and counted."""
    if encoding != "utf-8":
        data = data.decode(encoding).encode()
    data = data.removeprefix(_BOM)
    invalid: list[tuple[int, str]] = []
    try:
        data.decode()
    except UnicodeDecodeError:
        kept = data.split(b"\n")
        for index, line in enumerate(kept):
            try:
                line.decode()
            except UnicodeDecodeError:
                text = line.decode(errors="backslashreplace").rstrip("\r")
                invalid.append((index + 1, text))
                kept[index] = b""
        rejects.reject(_places(invalid), file=file, reason=INVALID_UTF8)
        rejects.saw(len(invalid))
        data = b"\n".join(kept)
    if not data:
        return _places([])
    lines = pl.read_lines(BytesIO(data), name=ROW).with_row_index(LINE, offset=1)
    lines = lines.with_columns(pl.col(LINE).cast(pl.Int64))
    return lines.join(_places(invalid), on=LINE, how="anti", maintain_order="left")


def _places(rows: Sequence[tuple[int, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, {LINE: pl.Int64, ROW: pl.String}, orient="row")


def _header(
    lines: pl.DataFrame, *, file: str, separator: str, quoted: bool
) -> tuple[list[str], pl.DataFrame]:
    written = lines.filter(_not_blank())
    if written.is_empty():
        raise ValueError(f"{file} is empty; expected a header line")
    first, header = written.row(0)
    if lines.filter(pl.col(LINE) <= first).height < first:  # an invalid line before it was dropped
        raise ValueError(f"{file}: the header is not UTF-8")
    try:
        fields = csv.reader([header], delimiter=separator, strict=True)
        columns = next(fields) if quoted else header.split(separator)
    except csv.Error as error:
        raise ValueError(f"{file}:{first}: malformed header ({error}): {header}") from error
    columns = [column.strip() for column in columns]
    if len(set(columns)) < len(columns) or "" in columns:
        raise ValueError(f"{file}:{first}: a column without a name or named twice: {header}")
    return columns, lines.filter(pl.col(LINE) > first)


def _split(
    lines: pl.DataFrame, columns: Sequence[str], *, file: str, rejects: Rejects, separator: str
) -> pl.DataFrame:
    lines = lines.filter(_not_blank())
    rejects.saw(lines.height)
    found = pl.col(ROW).str.count_matches(separator, literal=True) + 1
    lines = rejects.keep(lines, found == len(columns), file=file, reason=WRONG_COLUMNS)
    fields = pl.col(ROW).str.split_exact(separator, len(columns) - 1)
    return lines.with_columns(fields.struct.rename_fields(list(columns)).struct.unnest())


def _not_blank() -> pl.Expr:
    return pl.col(ROW).str.contains(r"\S")


@dataclass(slots=True)
class _QuotedRecords:
    rows: list[tuple[int | str, ...]] = field(default_factory=list)
    malformed: dict[str, list[tuple[int, str]]] = field(
        default_factory=lambda: {WRONG_QUOTES: [], WRONG_COLUMNS: []}
    )
    consumed: list[int] = field(default_factory=list)


def _quoted_records(lines: pl.DataFrame, *, width: int, separator: str) -> _QuotedRecords:
    """Read the records that begin on a line with a quote, and the lines they reach over."""
    records = _QuotedRecords()
    numbers, texts = lines[LINE].to_list(), lines[ROW].to_list()
    after = 0
    for index, text in enumerate(texts):
        if index < after or _QUOTE not in text:
            continue
        reader = csv.reader(_endings(texts, index), delimiter=separator, strict=True)
        try:
            fields = next(reader)
        except (csv.Error, StopIteration):
            records.malformed[WRONG_QUOTES].append((numbers[index], text))
            continue
        if len(fields) != width:
            records.malformed[WRONG_COLUMNS].append((numbers[index], text))
            continue
        after = index + reader.line_num
        row = "\n".join(texts[index:after])
        records.rows.append((numbers[index], row, *fields))
        records.consumed.extend(numbers[index:after])
    return records


def _endings(texts: Sequence[str], start: int) -> Iterator[str]:
    for text in texts[start : start + _MAX_RECORD_LINES]:
        yield text + "\n"
