"""Which edition classifies."""

from __future__ import annotations

from feature_store.editions.traffic import MODEL_NAME, TrafficEdition
from feature_store.registry import Registry, UnknownVersionError
from services.classify.stream import ServedEdition


def load_served(registry: Registry, reference: str) -> ServedEdition:
    """The version of the traffic model that an alias, or a version, names.

    Raises:
        UnknownVersionError: there is none; the message says how to make one.
        CorruptVersionError: its files are not those that were published.
    """
    if reference not in registry.aliases(MODEL_NAME) and not registry.versions(MODEL_NAME):
        raise UnknownVersionError(
            "there is no traffic model yet: train one with `errata train traffic --data DIR "
            "--promote`, or see one at work with `errata demo-traffic`"
        )
    directory, manifest = registry.open(MODEL_NAME, reference)
    return ServedEdition(TrafficEdition.load(directory), manifest.version)
