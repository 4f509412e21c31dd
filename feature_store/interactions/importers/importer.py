"""What every importer honours."""

from pathlib import Path
from typing import Protocol

from feature_store.interactions.dataset import Dataset
from feature_store.interactions.rejects import Rejects


class Importer(Protocol):
    """Reads one foreign format into a `Dataset`."""

    @property
    def name(self) -> str:
        """What a user calls the format: `--format NAME`."""

    @property
    def looks_for(self) -> str:
        """The files by which the format is known, for messages."""

    def matches(self, path: Path) -> bool:
        """True when `path` (folder, file, archive or prefix) looks like this format."""

    def read(self, path: Path, rejects: Rejects) -> Dataset:
        """Read `path`; rows that cannot be read go to `rejects`, which is not settled here.

        Raises:
            FileNotFoundError: nothing is there.
            ValueError: it is not this format; the message names what was looked for.
        """
