"""Versions of models, their checksums, and the aliases that point at them.

Enter through `Registry`. A version is an immutable directory whose manifest names the SHA-256 of
every file; an alias (`champion`, `challenger`) is one small file that moves atomically, so a
reader never sees half a version and a rollback is a move of the alias. `names.py` has the names of
the models.
"""

from feature_store.registry.manifest import FileEntry, Manifest
from feature_store.registry.registry import (
    CorruptVersionError,
    Registry,
    RegistryError,
    UnknownVersionError,
)

__all__ = [
    "CorruptVersionError",
    "FileEntry",
    "Manifest",
    "Registry",
    "RegistryError",
    "UnknownVersionError",
]
