"""MovieLens-100K with titles, genres, users and a knowledge graph, out of the `recbole` wheel."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

PACKAGE = "recbole==1.2.1"
SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"


class DownloadError(OSError):
    """The wheel could not be had, or is not the one that is expected."""


def fetch_wheel(directory: Path) -> Path:
    """The wheel, from `directory` if it is there, else downloaded without its dependencies.

    The data are read in place and stay in the wheel: MovieLens asks not to redistribute them.

    Raises:
        DownloadError: no registry is reachable, or the checksum is another.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not (wheels := sorted(directory.glob("recbole-1.2.1-*.whl"))):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--dest", str(directory), PACKAGE]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DownloadError(f"pip could not download {PACKAGE}: {done.stderr.strip()[-500:]}")
        wheels = sorted(directory.glob("recbole-1.2.1-*.whl"))
    actual = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if actual != SHA256:
        wheels[0].unlink()
        raise DownloadError(f"{wheels[0].name} has SHA-256 {actual}, expected {SHA256}; removed it")
    return wheels[0]
