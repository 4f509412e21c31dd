"""A published traffic classifier and later labelled flows, as a stream of verdicts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feature_store.editions.traffic import TrafficEdition
from feature_store.registry import Manifest
from pipelines.memory.stream import Stream
from pipelines.memory.subject import Subject
from pipelines.progress import Reporter, Silent
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import LabelledFlows
from pipelines.traffic.split import honest_split
from pipelines.traffic.training import Parts, train

FloatArray = NDArray[np.float32]
VALIDATION_SHARE = 0.25


def subject(
    data: LabelledFlows,
    edition: TrafficEdition,
    manifest: Manifest,
    *,
    config: TrafficConfig | None = None,
    reporter: Reporter | None = None,
) -> Subject:
    """The flows that the version was not trained on, in the order in which they ended.

    Args:
        data: labelled flows; where they are the version's own, what its split held out for testing
            is the stream, else all of them.
        edition, manifest: the published version.
        config: of retraining, the version's own by default.
        reporter: progress of retraining.

    Raises:
        ValueError: no flow has a label.
    """
    config = config or TrafficConfig.model_validate(manifest.config)
    own = manifest.data_fingerprint == data.fingerprint()
    labelled = np.flatnonzero(data.label >= 0)
    if own:
        labelled = honest_split(data, shares=config.split.shares, gap_s=config.split.gap_s).test
    if not len(labelled):
        raise ValueError("no flow has a label")
    ended = data.flows.flow["last_ns"]
    order = labelled[np.argsort(ended[labelled], kind="stable")]
    classes = (*edition.classes, *(c for c in data.classes if c not in edition.classes))
    flows = data[order]
    truth = np.array([classes.index(data.classes[row]) for row in flows.label], np.int64)
    labels = np.eye(len(classes), dtype=np.float32)[truth]
    stream = as_stream(flows, labels, edition, classes)

    def retrained(known: int) -> Stream | None:
        until = ended[order[min(known, len(order) - 1)]]
        before = data[np.flatnonzero((ended < until) & (data.label >= 0))]
        try:
            kept = before.keeping_classes(config.labels.least_flows)
            split = honest_split(kept, shares=config.split.shares, gap_s=config.split.gap_s)
            newer = train(Parts.of(kept, split), kept.classes, config, reporter=Silent())
        except ValueError as error:
            (reporter or Silent()).say(f"not retrained on {len(before):,} flows: {error}")
            return None
        return as_stream(flows, labels, newer, classes)

    new = sorted(set(classes) - set(edition.classes))
    return Subject(
        name=manifest.model,
        stream=stream,
        classes=classes,
        validation=int(len(order) * VALIDATION_SHARE),
        network=lambda: HeadNetwork(len(classes), edition.network.head.in_features),
        retrained=retrained,
        notes={
            "version": manifest.version,
            "events": f"{len(order):,} flows of {len(classes)} classes",
            "seen in training": "no: held out by the version's own split"
            if own
            else "perhaps: these are other captures than the version's",
            "classes new to the version": ", ".join(new) or "none",
            "incremental training": "a last layer on the hidden vector, added to the log "
            "probabilities",
        },
    )


class HeadNetwork(nn.Module):
    """What incremental training trains: a linear correction of the edition's log probabilities.

    Shapes:
        inputs: (B, C + d) float32: log probabilities, hidden vector. returns: (B, C).
    """

    def __init__(self, n_classes: int, d: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        self.head = nn.Linear(d, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = inputs[:, : self.n_classes] + self.head(inputs[:, self.n_classes :])
        return logits


def as_stream(
    data: LabelledFlows, labels: FloatArray, edition: TrafficEdition, classes: Sequence[str]
) -> Stream:
    """Flows as an edition sees them, in their order.

    Args:
        data: the flows.
        labels: (n, C) one-hot over `classes`.
        edition: whose predictions and keys they are.
        classes: the edition's own and others, of which it says 0.
    """
    threads = torch.get_num_threads()
    verdicts = edition.classify(data.flows.cut(edition.packets))
    torch.set_num_threads(threads)
    n = len(data)
    predictions = np.zeros((n, len(classes)), np.float32)
    columns = [classes.index(each) for each in edition.classes if each in classes]
    kept = [row for row, each in enumerate(edition.classes) if each in classes]
    predictions[:, columns] = verdicts.probability[:, kept]
    logs = np.log(np.maximum(predictions, 1e-6))
    none = np.zeros(n, np.int64)
    return Stream(
        inputs=np.hstack([logs, verdicts.hidden]).astype(np.float32),
        keys=edition.memory_keys(verdicts.probability, verdicts.hidden),
        predictions=predictions,
        labels=labels,
        groups=none,
        items=none,
        time_s=data.flows.flow["last_ns"] / 1e9,
    )
