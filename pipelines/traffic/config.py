"""The traffic pipeline's configuration: one frozen, validated tree."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from feature_store.traffic.features import Tier
from models.traffic.encoder import EncoderConfig
from models.traffic.masked_autoencoder import AutoencoderConfig
from pipelines.configuration import PipelineConfig, Section
from pipelines.traffic.labels import FILE_PATTERN

Share = Annotated[float, Field(ge=0, le=1)]


class LabelConfig(Section):
    """Where labels come from; see `labels.find_labels`.

    Attributes:
        table: a CSV of flows or MAC addresses; None looks for `labels.csv`, then for MAC files in
            the folders, then takes the folders themselves.
        pattern: of file names directly in the data directory; its group `label` is the class.
        least_flows: a class with fewer is treated as unlabelled.
    """

    table: Path | None = None
    pattern: str = FILE_PATTERN
    least_flows: int = Field(10, ge=2)


class SplitConfig(Section):
    """The honest split; see `split.honest_split`.

    Attributes:
        train, validation, test: shares of each class's flows, in order of time.
        gap_s: silence of a class that ends a recording, seconds.
    """

    train: float = Field(0.6, gt=0, lt=1)
    validation: float = Field(0.15, gt=0, lt=1)
    test: float = Field(0.25, gt=0, lt=1)
    gap_s: float = Field(120.0, gt=0)

    @property
    def shares(self) -> tuple[float, float, float]:
        """Of training, validation and test; they add up to 1."""
        total = self.train + self.validation + self.test
        return self.train / total, self.validation / total, self.test / total


class AugmentationConfig(Section):
    """What training does to a flow, so that a later recording does not look foreign.

    Attributes:
        cut_share: chance that a flow is seen only up to a random packet, as it is while it runs.
        gap_scale: standard deviation of the logarithm of one factor on all its gaps.
        gap_noise: the same, for each gap by itself.
        hidden_fields: chance that a header field of a flow is zero throughout.
        size_noise: chance that a packet's size moves by up to 8 bytes.
    """

    cut_share: Share = 0.3
    gap_scale: float = Field(0.5, ge=0)
    gap_noise: float = Field(0.2, ge=0)
    hidden_fields: Share = 0.1
    size_noise: Share = 0.1


class PretrainingConfig(Section):
    """Masked-autoencoder pre-training on all training flows, labelled or not."""

    enabled: bool = True
    epochs: int = Field(10, ge=1)
    batch_size: int = Field(128, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    autoencoder: AutoencoderConfig = AutoencoderConfig()


class NetworkConfig(Section):
    """The sequence network and its fine-tuning.

    Attributes:
        packets: a flow's first packets that become tokens.
        byte_packets: packets whose bytes become strides too (tier T2 alone).
        class_weight: a class with n flows weighs n^-class_weight a flow.
        layer_decay: learning rate of a layer over that of the one above it.
        patience: epochs without a better macro F1 on the validation flows before it stops.
        frozen: train the head alone, as an ablation of the encoder.
    """

    packets: int = Field(20, ge=1, le=64)
    byte_packets: int = Field(0, ge=0, le=5)
    positions: bool = True
    encoder: EncoderConfig = EncoderConfig(d_model=64, layers=2)
    epochs: int = Field(20, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    layer_decay: float = Field(0.9, gt=0, le=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    class_weight: Share = 0.5
    patience: int = Field(10, ge=1)
    frozen: bool = False


class TreeConfig(Section):
    """The gradient-boosted trees beside the network (LightGBM).

    Attributes:
        members: models whose log probabilities are averaged, each with a seed of its own; every
            second one draws a threshold for each column at random, and takes the best column
            (extremely randomised trees, Geurts et al., 2006).
        beginning_weight: the tree also learns from each flow as it was after a random number of
            its packets; such a beginning weighs so much of a whole flow.
        rounds: boosting rounds at most; cross-validation over blocks of recordings chooses how many
            are kept, by macro F1. (Log loss turns earlier, and the decision's temperature mends
            that.)
        class_weight: a class with n flows weighs n^-class_weight a flow.
    """

    enabled: bool = True
    members: int = Field(4, ge=1, le=32)
    beginning_weight: Share = 0.3
    rounds: int = Field(120, ge=1)
    learning_rate: float = Field(0.08, gt=0)
    leaves: int = Field(15, ge=2)
    least_rows: int = Field(5, ge=1)
    feature_share: float = Field(0.5, gt=0, le=1)
    row_share: float = Field(0.8, gt=0, le=1)
    class_weight: Share = 0.5


class ForestConfig(Section):
    """The random forest beside the boosted trees (scikit-learn; it stands beside a `tree` only).

    Attributes:
        trees: of the forest. An edition grows by about 35 kB a tree for each 1,000 leaves.
        feature_share: of the columns, tried at each split.
        least_rows: at a leaf.
        leaves: of a tree at most: bounds the edition, whatever the data.
        beginning_weight: as in `TreeConfig`.
    """

    enabled: bool = True
    trees: int = Field(200, ge=1, le=2_000)
    feature_share: float = Field(0.2, gt=0, le=1)
    least_rows: int = Field(1, ge=1)
    leaves: int = Field(4_096, ge=2)
    beginning_weight: Share = 0.3


class DecisionConfig(Section):
    """How verdicts are decided, chosen on flows that were held out; see `pool.choose_pool`.

    Attributes:
        rejected_share: share of the held-out flows that fall below the unknown threshold, which
            is at most what is left of 1.
        early_agreement: share of early verdicts that must agree with the final one.
    """

    rejected_share: float = Field(0.05, ge=0, lt=1)
    early_agreement: float = Field(0.98, gt=0, le=1)


class EvaluationConfig(Section):
    """What is measured, and against what.

    Attributes:
        resamples: of the bootstrap intervals.
        packets: accuracy is told after so many packets.
        left_out_share: share of the classes that the unknown-class test leaves out of training; 0
            skips it.
    """

    baselines: tuple[Literal["majority", "port_rule", "knn", "random_forest", "lightgbm"], ...] = (
        "majority",
        "port_rule",
        "knn",
        "random_forest",
        "lightgbm",
    )
    resamples: int = Field(1_000, ge=0)
    packets: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 3, 5, 10)
    left_out_share: float = Field(0.0, ge=0, le=0.5)


class TrafficConfig(PipelineConfig):
    """Everything that `errata train traffic` can be told."""

    seed: int = 0
    threads: int = Field(2, ge=1, le=256)
    tier: Tier = Tier.T1
    labels: LabelConfig = LabelConfig()
    split: SplitConfig = SplitConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    network: NetworkConfig = NetworkConfig()
    tree: TreeConfig = TreeConfig()
    forest: ForestConfig = ForestConfig()
    decision: DecisionConfig = DecisionConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def with_idle_network(self) -> TrafficConfig:
        """The same with a network that is hardly trained, for where it has no say in a verdict."""
        return self.changed(**{"pretraining.enabled": False, "network.epochs": 1})
