"""The recommender pipeline's configuration: one frozen, validated tree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field

from feature_store.interactions.graph import IN_MEMORY_PAIRS, MEMORY_MB
from feature_store.interactions.history import HistoryPolicy
from feature_store.vectors import IndexSpec
from pipelines.configuration import PipelineConfig, Section


class SplitConfig(Section):
    """How the evaluation holds out.

    Attributes:
        kind: `temporal` cuts everyone at one moment; `leave_last_out` holds out each user's last
            item; `given` takes the data's own split column; `auto` takes the first that the data
            allow: given, temporal, leave_last_out.
        test_share: share of the interactions after the temporal cut.
    """

    kind: Literal["auto", "temporal", "leave_last_out", "given"] = "auto"
    test_share: float = Field(0.1, gt=0, lt=1)


class GraphConfig(Section):
    """The item graph.

    Attributes:
        top_k: sources kept per item, edge type and source type.
        strength: `partial` weighs co-interaction by the closed-form regression of each item on
            the others, `cosine` by shared users; `auto` is partial up to `max_partial_items`
            items, or as many users.
        regularisation: of the partial weights.
        min_shared: users that two items must share, for cosine.
        weak_signals: edges between items that share users by the weak signals of the history.
        metadata: edges between items that share categorical values.
        links: edges between items that share entities of the knowledge graph.
        text: edges between items whose texts are near.
        item_types: only edges between these types; None is all.
        in_memory_pairs: a relation is joined on disk, by DuckDB, where more pairs of items than
            this share something (counted as often as they do).
        memory_mb: of a join on disk.
    """

    top_k: int = Field(10, ge=1)
    strength: Literal["auto", "partial", "cosine"] = "auto"
    max_partial_items: int = 20_000
    regularisation: float = Field(200.0, gt=0)
    min_shared: int = Field(1, ge=1)
    weak_signals: bool = True
    metadata: bool = True
    links: bool = True
    text: bool = True
    item_types: tuple[str, ...] | None = None
    in_memory_pairs: int = Field(IN_MEMORY_PAIRS, ge=0)
    memory_mb: int = Field(MEMORY_MB, ge=100)


class GraphNetworkConfig(Section):
    """The graph network (HGNN) and its link training.

    Attributes:
        enabled: train it, and give its vectors to the item tower.
        balanced: undersample majority relations (2T-HGNN's multi-link sampler).
        users_in_graph: make users nodes too, as an ablation.
        fanouts: neighbours drawn per edge type at each hop; as many layers as entries.
        loss: `softmax` over shared negatives, or the paper's `margin`.
    """

    enabled: bool = True
    dimension: int = Field(128, ge=2)
    hidden: int = Field(128, ge=2)
    fanouts: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 5), min_length=1, max_length=4)
    epochs: int = Field(5, ge=1)
    batch_size: int = Field(1_024, ge=1)
    negatives: int = Field(512, ge=1)
    loss: Literal["softmax", "margin"] = "softmax"
    temperature: float = Field(0.1, gt=0)
    margin: float = Field(0.2, gt=0)
    learning_rate: float = Field(3e-3, gt=0)
    balanced: bool = True
    users_in_graph: bool = False


class TowerConfig(Section):
    """The two towers.

    Attributes:
        dimension: length of a vector.
        hidden: width of the user tower's learned term; 0 leaves it out.
        free_vectors: items have vectors of their own beside content and graph.
        listens: histories hear through the item graph's edges.
        hide_share: chance that an item of the history becomes a target.
        hide_all: chance that all of a user's items of the target types do (simulates a user who is
            new to the type).
        drop_others: chance that an item of another type is dropped from the history.
        unit_history: history vectors have unit length before their learned weights.
        vector_dropout: share of free vectors hidden in a step, so that content stands alone.
        target_types: item types to learn to rank; None is all.
        within_type: items compete with their own type only, so that a rich type does not drown a
            sparse one.
        negatives: uniform negatives beside the batch's own items, with logQ correction; None lets
            the whole catalogue compete.
        user_weight: a user with n targets weighs n^user_weight.
    """

    dimension: int = Field(128, ge=2)
    hidden: int = Field(128, ge=0)
    free_vectors: bool = True
    listens: bool = True
    unit_history: bool = False
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(512, ge=1)
    learning_rate_vectors: float = Field(1e-3, gt=0)
    learning_rate_networks: float = Field(3e-3, gt=0)
    temperature: float = Field(0.1, gt=0)
    popularity_gain: float = 0.3
    hide_share: float = Field(0.5, gt=0, lt=1)
    hide_all: float = Field(0.0, ge=0, lt=1)
    drop_others: float = Field(0.2, ge=0, lt=1)
    vector_dropout: float = Field(0.0, ge=0, lt=1)
    target_types: tuple[str, ...] | None = None
    within_type: bool = False
    negatives: int | None = Field(None, ge=1)
    user_weight: float = Field(0.5, ge=0, le=1)


class LinearConfig(Section):
    """The closed-form tail of the vectors; see `linear_block.py`.

    Attributes:
        kind: `partial` (EASE's leading factors) or `spectral` (the low-pass filter); `auto` is
            partial up to `graph.max_partial_items` items, or as many users.
        rank: length of the tail.
        weight: what its score counts beside the towers'; 0 leaves it out.
        regularisation: of the partial weights.
        spectrum: of the spectral tail, the power of its eigenvalue that weighs a direction.
        history_degree: of the spectral tail, how much a popular history item is damped.
    """

    kind: Literal["auto", "partial", "spectral"] = "auto"
    rank: int = Field(256, ge=1)
    weight: float = Field(12.0, ge=0)
    regularisation: float = Field(500.0, gt=0)
    spectrum: float = Field(0.5, ge=0, le=1)
    history_degree: float = Field(0.3, ge=0, le=1)


class ListsConfig(Section):
    """Exact neighbour lists beside the vectors; see `neighbour_lists.py`.

    Attributes:
        weight: what their score counts beside the rest, 0 leaves them out; None chooses it in the
            trial training (`new_users`), and leaves them out where there is none.
        kind: `partial` (EASE's weights, at `linear.regularisation`) or `cosine` (of shared users);
            `auto` is partial up to `graph.max_partial_items` items, or as many users.
        length: items in a list.
        max_pairs: cosine lists are left out where more pairs of items than this share a user,
            counted as often as they do.
    """

    weight: float | None = Field(None, ge=0)
    kind: Literal["auto", "partial", "cosine"] = "auto"
    length: int = Field(128, ge=1)
    max_pairs: int = Field(IN_MEMORY_PAIRS, ge=0)


class NewUsersConfig(Section):
    """How far lists for new users lean on popularity; see `new_users.py`.

    Attributes:
        enabled: fit it on a trial training, where the data have times.
        validation_share: share of the newest training interactions that the trial is not told.
        min_users: fit nothing on fewer users who appear in that part for the first time.
    """

    enabled: bool = True
    validation_share: float = Field(0.1, gt=0, lt=0.5)
    min_users: int = Field(30, ge=1)


def _one_spelling(name: object) -> object:
    """`item_knn` was `itemknn` in configurations of the first release."""
    return "itemknn" if name == "item_knn" else name


Baseline = Annotated[
    Literal["popularity", "itemknn", "ease", "ials", "text_knn"], BeforeValidator(_one_spelling)
]


class EvaluationConfig(Section):
    """What is measured, and against what."""

    cutoffs: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 20), min_length=1)
    baselines: tuple[Baseline, ...] = ("popularity", "itemknn", "ease", "ials")


Ablation = Literal["towers_only", "no_balanced_sampler", "users_in_graph"]
_ABLATIONS: dict[Ablation, dict[str, Any]] = {
    "towers_only": {"graph_network.enabled": False, "towers.listens": False},
    "no_balanced_sampler": {"graph_network.balanced": False},
    "users_in_graph": {"graph_network.users_in_graph": True},
}


class RecommenderConfig(PipelineConfig):
    """Everything that `errata train recommender` can be told."""

    seed: int = 0
    threads: int = Field(2, ge=1, le=256)
    split: SplitConfig = SplitConfig()
    history: HistoryPolicy = HistoryPolicy()
    graph: GraphConfig = GraphConfig()
    graph_network: GraphNetworkConfig = GraphNetworkConfig()
    towers: TowerConfig = TowerConfig()
    linear: LinearConfig = LinearConfig()
    lists: ListsConfig = ListsConfig()
    new_users: NewUsersConfig = NewUsersConfig()
    index: IndexSpec = IndexSpec()
    evaluation: EvaluationConfig = EvaluationConfig()

    def ablated(self, ablation: Ablation) -> Self:
        """The configuration without one part, or with users in the graph."""
        return self.changed(**_ABLATIONS[ablation])


def ablations_of(config: Mapping[str, Any]) -> list[Ablation]:
    """Which ablations `config` has, a configuration as a manifest keeps it: maybe one of an earlier
    release."""

    def value(name: str) -> Any:
        group, _, leaf = name.partition(".")
        return config.get(group, {}).get(leaf)

    return [
        ablation
        for ablation, changes in _ABLATIONS.items()
        if all(value(name) == wanted for name, wanted in changes.items())
    ]
