"""Nearest vectors by inner product, over FAISS.

`index.py` builds, saves, loads and searches an index of normalised item vectors. `backend.py` is
the one place that imports FAISS and says what is wrong with an installation.
"""

from feature_store.vectors.backend import FaissInstallationError, faiss_build
from feature_store.vectors.index import IndexSpec, VectorIndex

__all__ = ["FaissInstallationError", "IndexSpec", "VectorIndex", "faiss_build"]
