"""The rows that could not be read: collected with their place and reason, counted, and limited."""

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

LINE = "#line"  # names no user's column is likely to have; dropped before a table is done
ROW = "#row"

_SCHEMA = {"file": pl.String, "line": pl.Int64, "reason": pl.String, "row": pl.String}
NOT_KEPT = "(not kept: it may name a user)"
_SHOWN = 10
_SHOWN_CHARACTERS = 120


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that was left out: the file, its line from 1 (the header counts), why, and the row.

    Formats without lines count rows (Parquet) or records (JSON) from 1 instead.
    """

    file: str
    line: int
    reason: str
    row: str


@dataclass(frozen=True, slots=True)
class RejectPolicy:
    """How large a share of the rows may be left out, from 0 (none) to 1 (any)."""

    max_share: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.max_share <= 1:
            raise ValueError(f"max_share is {self.max_share}; expected a share from 0 to 1")


class TooManyRejects(ValueError):  # noqa: N818 - reads as the sentence it is
    """More rows were left out than the policy allows; the message says which, why and what next."""

    def __init__(self, rejects: "Rejects", *, path: Path) -> None:
        self.count = rejects.count
        self.total = rejects.total
        self.limit = rejects.policy.max_share
        self.path = path
        super().__init__(_explain(rejects, path))


class Rejects:
    """Collects the rows that could not be read, over all files of one import.

    Args:
        policy: how large a share may be rejected before `settle` raises.
        path: where `settle` writes them (JSON lines: file, line, reason, row); by default a new
            file in the system's temporary folder.
        rows: whether to keep what stood in them; False where that may name somebody.

    Example:
        >>> rejects = Rejects(policy=RejectPolicy(max_share=0.5))
        >>> frame = pl.DataFrame({LINE: [2, 3], ROW: ["a,5", "b,-1"], "weight": [5, -1]})
        >>> rejects.saw(frame.height)
        >>> rejects.keep(frame, pl.col("weight") > 0, file="log.csv", reason="negative").height
        1
        >>> rejects.first()
        [Reject(file='log.csv', line=3, reason='negative', row='b,-1')]
    """

    def __init__(
        self,
        *,
        policy: RejectPolicy | None = None,
        path: Path | None = None,
        rows: bool = True,
    ) -> None:
        self._rows = rows
        self.policy = policy or RejectPolicy()
        self.path = path
        self.total = 0
        self._frames: list[pl.DataFrame] = []

    def saw(self, rows: int) -> None:
        """Count `rows` more rows of input, whether they were kept or rejected."""
        self.total += rows

    def keep(self, frame: pl.DataFrame, where: pl.Expr, *, file: str, reason: str) -> pl.DataFrame:
        """Return the rows for which `where` is true; `reject` the others."""
        good = frame.select(where.fill_null(False).alias("good")).to_series()
        if good.all():
            return frame
        self.reject(frame.filter(~good), file=file, reason=reason)
        return frame.filter(good)

    def reject(self, rows: pl.DataFrame, *, file: str, reason: str) -> None:
        """Reject all of `rows`.

        Their place is the column `LINE`, their raw form the column `ROW`; without that column
        it is their values, as JSON.
        """
        if rows.is_empty():
            return
        row = (
            pl.lit(NOT_KEPT)
            if not self._rows
            else (
                pl.col(ROW)
                if ROW in rows.columns
                else pl.struct(pl.exclude(LINE)).struct.json_encode()
            )
        )
        self._frames.append(
            rows.select(
                pl.lit(file).alias("file"),
                pl.col(LINE).cast(pl.Int64).alias("line"),
                pl.lit(reason).alias("reason"),
                row.alias("row"),
            )
        )

    @property
    def count(self) -> int:
        """Rows rejected."""
        return sum(frame.height for frame in self._frames)

    @property
    def share(self) -> float:
        """Rows rejected / rows seen; 0 when nothing was seen."""
        return self.count / self.total if self.total else 0.0

    @property
    def by_reason(self) -> Mapping[str, int]:
        """Rows rejected for each reason, most frequent first."""
        counts = self.frame.group_by("reason", maintain_order=True).len()
        return dict(counts.sort("len", descending=True, maintain_order=True).iter_rows())

    @property
    def frame(self) -> pl.DataFrame:
        """All rejects: file String, line Int64, reason String, row String."""
        return pl.concat([pl.DataFrame(schema=_SCHEMA), *self._frames])

    def first(self, n: int = _SHOWN) -> list[Reject]:
        """The first `n` rejects, in the order in which they were found."""
        return [Reject(*row) for row in self.frame.head(n).iter_rows()]

    def write(self, path: Path) -> None:
        """Write all rejects to `path` as JSON lines: file, line, reason, row."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as out:
            for reject in self.frame.iter_rows(named=True):
                out.write(json.dumps(reject, ensure_ascii=False) + "\n")

    def settle(self) -> None:
        """Write the rejects file, if there are rejects, and hold them against the policy.

        Raises:
            TooManyRejects: their share is above `policy.max_share`.
        """
        if not self.count:
            return
        if self.path is None:
            folder = tempfile.mkdtemp(prefix="errata-rejects-")
            self.path = Path(folder) / "rejects.jsonl"
        self.write(self.path)
        if self.share > self.policy.max_share:
            raise TooManyRejects(self, path=self.path)


def _explain(rejects: Rejects, path: Path) -> str:
    enough = math.ceil(rejects.share * 1000) / 1000
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in rejects.by_reason.items())
    rows = [f"  {r.file}:{r.line}: {r.reason}: {_shorten(r.row)}" for r in rejects.first()]
    return "\n".join(
        [
            f"{rejects.count:,} of {rejects.total:,} rows ({rejects.share:.2%}) could not be read; "
            f"the limit is {rejects.policy.max_share:.2%}.",
            f"Reasons: {reasons}.",
            "The first of them:",
            *rows,
            f"All of them: {path}",
            f"Mend the rows, or leave them out with --max-reject-share {enough:g}.",
        ]
    )


def _shorten(row: str) -> str:
    shown = row.replace("\n", "\\n")
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[: _SHOWN_CHARACTERS - 1] + "…"
