"""Which edition classifies."""

from __future__ import annotations

import numpy as np

from feature_store.editions.traffic import MODEL_NAME, TrafficEdition
from feature_store.registry import Registry, UnknownVersionError
from feature_store.traffic.flows import FlowBatch
from services.classify.correction import Uncorrected
from services.classify.reader import FlowReader
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
    edition = TrafficEdition.load(directory)
    _warm_up(edition)
    return ServedEdition(edition, manifest.version)


def _warm_up(edition: TrafficEdition) -> None:
    """Compile what is compiled at its first call: the first packets must not wait for it."""
    empty = FlowBatch.empty(edition.packets)
    flow = FlowBatch(*(np.zeros((1, *each.shape[1:]), each.dtype) for each in empty.columns()))
    flow.flow["kept"] = 1
    reader = FlowReader(edition, Uncorrected(edition.classes), states=1)
    one = np.ones(1, np.int64)
    reader.each(flow, one, one)
    reader.whole(flow, one)
