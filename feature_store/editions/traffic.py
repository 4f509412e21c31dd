"""An edition of the traffic classifier: a sequence network, and trees on the same features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import lightgbm
import numpy as np
import torch
from lightgbm.basic import LightGBMError
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from feature_store.editions.boosted_trees import BoostedTrees, UnsupportedTreeError
from feature_store.editions.random_forest import RandomForest
from feature_store.error_memory import KeySpace
from feature_store.registry.names import TRAFFIC
from feature_store.traffic.features import Tier, feature_table, flow_features
from feature_store.traffic.flows import FlowBatch
from models.traffic.classifier import TrafficClassifier
from models.traffic.embedding import EmbeddingConfig, FlowEmbedding, FlowTensors
from models.traffic.encoder import EncoderConfig, TrafficEncoder

MODEL_NAME = TRAFFIC
UNKNOWN = "unknown"
FloatArray = NDArray[np.float32]

_CARD, _NETWORK, _TREE = "edition.json", "network.safetensors", "tree.txt"
_FOREST = "forest.safetensors"
_KEYS = "keys.safetensors"
_LEAST_PROBABILITY = 1e-6
# Of the log probabilities in which verdicts are alike; the rest is the hidden vector's.
PROBABILITIES_SHARE = 0.6
_ORDINARY_LENGTH = 1.5  # of a key; those of training have a mean squared length of 1
_LEAST_REMEMBERED = 1e-4  # below it, how unlikely a class is says nothing of a flow


class Decision(BaseModel):
    """How the parts become one verdict, all of it chosen on flows that were held out.

    p ∝ exp((w · log p_network + (1 - w) · log p_trees) / T), where log p_trees is
    (1 - f) · log p_boosted + f · log p_forest, and the class is `unknown` where max p is below
    `unknown_below`.

    Attributes:
        network_weight: w; 1 where there is no tree.
        forest_share: f; 0 where there is no forest.
        temperature: T, which makes the confidence calibrated.
        unknown_below: confidence that a verdict needs.
        early_exit: confidence at which a verdict before the last packet is final.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network_weight: float = Field(1.0, ge=0, le=1)
    forest_share: float = Field(0.0, ge=0, le=1)
    temperature: float = Field(1.0, gt=0)
    unknown_below: float = Field(0.0, ge=0, le=1)
    early_exit: float = Field(1.0, ge=0, le=1)


class _Card(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...]
    tier: Tier
    embedding: EmbeddingConfig
    encoder: EncoderConfig
    decision: Decision


@dataclass(frozen=True)
class Verdicts:
    """What an edition says of n flows.

    Shapes:
        probability: (n, classes) float32, calibrated
        hidden: (n, d_model) float32, unit vectors: the network's own representation
    """

    probability: FloatArray
    hidden: FloatArray


@dataclass(frozen=True)
class TrafficEdition:
    """Everything that turns flows into verdicts, immutable.

    Attributes:
        classes: names; the columns of every probability.
        tier: what is seen of a flow.
        network: the sequence model, in evaluation mode.
        tree: gradient-boosted trees on `feature_table`, or None.
        decision: how the parts are joined.
        keys: scales what an error is remembered under; see `memory_keys`.
        forest: a random forest on the same table, or None; it stands beside a `tree` only.
    """

    classes: tuple[str, ...]
    tier: Tier
    network: TrafficClassifier
    tree: lightgbm.Booster | None
    decision: Decision
    keys: KeySpace
    forest: RandomForest | None = None

    @property
    def packets(self) -> int:
        """M, the first packets of a flow that are looked at."""
        config = self.network.embedding.config
        return max(config.packets, config.byte_packets)

    @property
    def network_is_idle(self) -> bool:
        """Whether the network has no say in a verdict: it makes the memory's keys alone."""
        return self.tree is not None and self.decision.network_weight == 0

    @cached_property
    def boosted(self) -> BoostedTrees | lightgbm.Booster | None:
        """The tree as it is read: flattened, or as it is where it cannot be."""
        try:
            return self.tree and BoostedTrees.of(self.tree)
        except UnsupportedTreeError:
            return self.tree

    def classify(self, flows: FlowBatch) -> Verdicts:
        """Verdicts on flows, ended or not, from what is there of them."""
        logits, hidden = self.read_network(flows)
        return Verdicts(self.decide(logits, flows), hidden)

    def memory_keys(self, probability: FloatArray, hidden: FloatArray) -> FloatArray:
        """(n, k) float32, the keys under which errors of these verdicts are remembered.

        Hidden vector and log probabilities, side by side: the hidden vector alone knows nothing of
        the tree, and so nothing of which verdicts are alike. An edition whose `keys` are as wide as
        its hidden vectors has those alone. Of unit length, so that flows like each other are as
        near whatever their length was; what is unlike all training keeps away from the others.
        """
        alone = self.keys.centre.shape[0] == hidden.shape[1]
        keys = self.keys(hidden if alone else np.hstack([hidden, _log(probability)]))
        lengths = np.linalg.norm(keys, axis=1, keepdims=True)
        unit: FloatArray = keys / np.clip(lengths, np.finfo(np.float32).tiny, _ORDINARY_LENGTH)
        return unit

    def with_keys(self, flows: FlowBatch) -> TrafficEdition:
        """The same edition with keys that are scaled by what it says of `flows`."""
        found = self.classify(flows)
        hidden, probabilities = KeySpace.fit(found.hidden), KeySpace.fit(_log(found.probability))
        keys = KeySpace.joined(
            (hidden, 1 - PROBABILITIES_SHARE), (probabilities, PROBABILITIES_SHARE)
        )
        return replace(self, keys=keys)

    def probability(self, flows: FlowBatch) -> FloatArray:
        """(n, classes) float32: the calibrated probabilities of `classify` alone."""
        if self.network_is_idle:
            return self.decide(np.zeros((len(flows), len(self.classes)), np.float32), flows)
        return self.classify(flows).probability

    def read_network(
        self, flows: FlowBatch, *, batch_size: int = 1024
    ) -> tuple[FloatArray, FloatArray]:
        """Logits (n, classes) and unit hidden vectors (n, d_model) of the network alone."""
        return read_network(self.network, flows, self.tier, batch_size=batch_size)

    def decide(self, logits: FloatArray, flows: FlowBatch) -> FloatArray:
        """(n, classes) calibrated probabilities from the network's logits and the trees."""
        log_network = log_softmax(logits)
        if self.boosted is None or self.decision.network_weight == 1 or not len(flows):
            return pooled(log_network, log_network, self.decision)
        table, _ = feature_table(flows, self.tier)
        return pooled(log_network, self._trees(self.boosted, table), self.decision)

    def _trees(self, boosted: BoostedTrees | lightgbm.Booster, table: FloatArray) -> FloatArray:
        """(n, classes) float32, what the trees say together; one without a say is not read."""
        share = self.decision.forest_share if self.forest is not None else 0.0
        if self.forest is None or share == 0:
            return tree_log_probability(boosted, table)
        log_forest = forest_log_probability(self.forest, table)
        if share == 1:
            return log_forest
        return trees_pooled(tree_log_probability(boosted, table), log_forest, share)

    def with_say(self, *, network_weight: float, forest_share: float) -> TrafficEdition:
        """The same edition with another balance of its parts."""
        decision = self.decision.model_copy(
            update={"network_weight": network_weight, "forest_share": forest_share}
        )
        return replace(self, decision=decision)

    def names(self, probability: FloatArray, classes: tuple[str, ...] | None = None) -> list[str]:
        """The class of each row, `unknown` where the confidence is below the threshold.

        Args:
            probability: (n, C).
            classes: names of the columns, the edition's own by default.
        """
        classes = classes or self.classes
        best = probability.argmax(axis=1)
        sure = probability.max(axis=1, initial=0) >= self.decision.unknown_below
        return [classes[k] if ok else UNKNOWN for k, ok in zip(best, sure, strict=True)]

    def save(self, directory: Path) -> None:
        """Write the edition's files."""
        card = _Card(
            classes=self.classes,
            tier=self.tier,
            embedding=self.network.embedding.config,
            encoder=self.network.encoder.config,
            decision=self.decision,
        )
        (directory / _CARD).write_text(card.model_dump_json(indent=2))
        save_file(self.network.state_dict(), directory / _NETWORK)
        save_arrays({"centre": self.keys.centre, "scale": self.keys.scale}, directory / _KEYS)
        if self.tree is not None:
            self.tree.save_model(str(directory / _TREE))
        if self.forest is not None:
            self.forest.save(directory / _FOREST)

    @classmethod
    def load(cls, directory: Path, *, device: str = "cpu") -> TrafficEdition:
        """Read what `save` wrote.

        Raises:
            ValueError, OSError: the files are not those of an edition.
        """
        card = _Card.model_validate_json((directory / _CARD).read_text())
        network = build_network(card.embedding, card.encoder, len(card.classes))
        tree_file, forest_file = directory / _TREE, directory / _FOREST
        try:
            network.load_state_dict(load_file(directory / _NETWORK))
            tree = _read_tree(tree_file) if tree_file.exists() else None
            keys = load_arrays(directory / _KEYS)
            key_space = KeySpace(keys["centre"], keys["scale"])
        except (SafetensorError, LightGBMError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{directory} holds no traffic edition: {reason}") from error
        if not all(bool(each.isfinite().all()) for each in network.state_dict().values()):
            # Its verdicts would be no numbers either, and go into the memory of errors.
            raise ValueError(
                f"{directory} holds no traffic edition: the network has weights that are no finite "
                "numbers"
            )
        return cls(
            classes=card.classes,
            tier=card.tier,
            network=network.to(device).eval(),
            tree=tree,
            decision=card.decision,
            keys=key_space,
            forest=RandomForest.load(forest_file) if forest_file.exists() else None,
        )


def _read_tree(file: Path) -> lightgbm.Booster:
    """What LightGBM saved; of a file that was cut among its trees it would abort the process.

    Raises:
        LightGBMError: it is no model.
    """
    text = file.read_text(errors="replace")
    if "\nend of trees" not in text:
        raise LightGBMError(f"{file.name} ends before its trees do")
    return lightgbm.Booster(model_str=text)


def _log(probability: FloatArray) -> FloatArray:
    found: FloatArray = np.log(np.maximum(probability, _LEAST_REMEMBERED)).astype(np.float32)
    return found


def build_network(
    embedding: EmbeddingConfig, encoder: EncoderConfig, classes: int
) -> TrafficClassifier:
    """A network with fresh weights."""
    return TrafficClassifier(
        FlowEmbedding(embedding, encoder.d_model), TrafficEncoder(encoder), classes
    )


def flow_tensors(flows: FlowBatch, tier: Tier) -> FlowTensors:
    """What the network sees of flows at a tier."""
    seen = flow_features(flows, tier)
    return FlowTensors(
        kept=torch.from_numpy(seen.kept),
        size=torch.from_numpy(seen.size),
        direction=torch.from_numpy(seen.direction),
        gap_s=torch.from_numpy(seen.gap_s),
        fields=torch.from_numpy(seen.fields.astype(np.int32)),
        octets=torch.from_numpy(seen.raw),
    )


def read_network(
    network: TrafficClassifier, flows: FlowBatch, tier: Tier, *, batch_size: int = 1024
) -> tuple[FloatArray, FloatArray]:
    """Logits (n, classes) and unit hidden vectors (n, d_model); the network is in `eval` mode."""
    device = next(network.parameters()).device
    tensors = flow_tensors(flows, tier)
    logits, hidden = [], []
    with torch.inference_mode():
        for begin in range(0, len(flows), batch_size):
            rows = torch.arange(begin, min(begin + batch_size, len(flows)))
            found = network(tensors.gather(rows).to(device))
            logits.append(found.logits.float().cpu())
            hidden.append(torch.nn.functional.normalize(found.hidden.float(), dim=1).cpu())
    if not logits:
        return (
            np.zeros((0, network.head.out_features), np.float32),
            np.zeros((0, network.head.in_features), np.float32),
        )
    return torch.cat(logits).numpy(), torch.cat(hidden).numpy()


def tree_log_probability(tree: BoostedTrees | lightgbm.Booster, table: FloatArray) -> FloatArray:
    """(n, classes) float32."""
    if not len(table):
        columns = tree.classes if isinstance(tree, BoostedTrees) else tree.num_model_per_iteration()
        return np.zeros((0, columns), np.float32)
    probability = np.asarray(tree.predict(table), np.float64)
    if probability.ndim == 1:  # two classes
        probability = np.stack([1 - probability, probability], axis=1)
    found: FloatArray = np.log(np.maximum(probability, _LEAST_PROBABILITY)).astype(np.float32)
    return found


def forest_log_probability(forest: RandomForest, table: FloatArray) -> FloatArray:
    """(n, classes) float32, by the rule of succession: that no tree of T names a class says that it
    is unlikely, not that it cannot be. A logarithm of 0 would be a veto in the pool."""
    share = (forest.trees * forest.predict(table) + 1) / (forest.trees + forest.classes)
    found: FloatArray = np.log(share).astype(np.float32)
    return found


def trees_pooled(log_boosted: FloatArray, log_forest: FloatArray, share: float) -> FloatArray:
    """(n, classes) float32: the logarithmic pool of both kinds of trees, not normalised."""
    found: FloatArray = ((1 - share) * log_boosted + share * log_forest).astype(np.float32)
    return found


def log_softmax(logits: FloatArray) -> FloatArray:
    """Along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    found: FloatArray = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


def pooled(log_network: FloatArray, log_trees: FloatArray, decision: Decision) -> FloatArray:
    """The logarithmic pool of two opinions at the decision's temperature; rows sum to 1."""
    w = decision.network_weight
    joint = (w * log_network + (1 - w) * log_trees) / decision.temperature
    return np.exp(log_softmax(joint.astype(np.float32)))
