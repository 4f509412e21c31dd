"""The one import of FAISS, and a clear word about an installation that cannot work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import metadata
from typing import Any

_WHEELS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")


class FaissInstallationError(ImportError):
    """FAISS is missing, or two wheels of it overwrite each other."""


@dataclass(frozen=True)
class FaissBuild:
    """Which FAISS is installed, and how many GPUs it sees."""

    wheel: str
    version: str
    gpus: int


@cache
def load_faiss() -> Any:
    """The `faiss` module; looked for once.

    Raises:
        FaissInstallationError: none is installed, or more than one is.
    """
    installed = _installed()
    if len(installed) > 1:
        names = " and ".join(sorted(installed))
        raise FaissInstallationError(
            f"{names} are both installed; their files overwrite each other, and the last one "
            "installed silently wins. Remove both and install one:  "
            f"pip uninstall -y {' '.join(sorted(installed))}  &&  pip install 'errata[cpu]'  "
            "(or 'errata[gpu]' on a CUDA machine)"
        )
    try:
        import faiss
    except ImportError as error:
        raise FaissInstallationError(
            "FAISS is not installed:  pip install 'errata[cpu]'  (or 'errata[gpu]' on a CUDA "
            "machine)"
        ) from error
    return faiss


def faiss_build() -> FaissBuild:
    """What is installed.

    Raises:
        FaissInstallationError: as `load_faiss`.
    """
    faiss = load_faiss()
    gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    wheel = next(iter(_installed()), "built from source")
    return FaissBuild(wheel=wheel, version=faiss.__version__, gpus=gpus)


def _installed() -> dict[str, str]:
    found = {}
    for wheel in _WHEELS:
        try:
            found[wheel] = metadata.version(wheel)
        except metadata.PackageNotFoundError:
            continue
    return found
