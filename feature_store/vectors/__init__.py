"""Nearest vectors by inner product, over FAISS.

`index.py` builds, saves, maps and searches an index of normalised item vectors; `spec.py` says
which; `filters.py` is what may be returned; `tuning.py` chooses and tunes an index for a recall on
a sample of real queries; `side.py` adds and withdraws rows between two builds. `gpu.py` is the
same on a GPU. `backend.py` is the one place that imports FAISS and says what is wrong with an
installation.
"""

from feature_store.vectors.backend import FaissInstallationError, faiss_build
from feature_store.vectors.filters import RowFilter
from feature_store.vectors.index import VectorIndex, single_threaded
from feature_store.vectors.side import SideIndex
from feature_store.vectors.spec import IndexSpec
from feature_store.vectors.tuning import Trial, Tuned, exact_top, recall, tune

__all__ = [
    "FaissInstallationError",
    "IndexSpec",
    "RowFilter",
    "SideIndex",
    "Trial",
    "Tuned",
    "VectorIndex",
    "exact_top",
    "faiss_build",
    "recall",
    "single_threaded",
    "tune",
]
