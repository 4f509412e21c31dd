"""Trains both towers with a softmax over the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from feature_store.interactions.catalogue import Catalogue
from feature_store.interactions.graph import EdgeType, ItemGraph
from models.recommender.item_tower import EdgeBlock, ItemInputs, ItemTower, SparseOperator
from models.recommender.losses import Targets, softmax_loss
from models.recommender.two_tower import ItemOutputs, TwoTower
from models.recommender.user_tower import Histories, UserTower
from pipelines.checkpoint import Checkpoint
from pipelines.distributed import ALONE, Group
from pipelines.progress import Reporter
from pipelines.recommender.batches import Hiding, epoch_batches, share_of
from pipelines.recommender.config import TowerConfig
from pipelines.recommender.preparation import CO_INTERACTION, WEAK_SIGNAL

WARM_UP_STEPS = 20
FINAL_RATE = 0.05


@dataclass(frozen=True)
class TowerData:
    """What the towers are trained on.

    Shapes:
        histories: (n_users, n_items) float32 weights. user_features: (n_users, F).
        content: (n_items, C). graph_vectors: (n_items, G), G may be 0.
        types: (n_items,) int64. popularity: (n_items,) float32.
        initial: (n_items, d) float32 start of the free vectors, or None.
    """

    catalogue: Catalogue
    graph: ItemGraph
    histories: sp.csr_matrix
    user_features: NDArray[np.float32]
    content: NDArray[np.float32]
    graph_vectors: NDArray[np.float32]
    types: Tensor
    popularity: NDArray[np.float32]
    initial: NDArray[np.float32] | None


def train_towers(
    data: TowerData,
    config: TowerConfig,
    *,
    seed: int,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
    group: Group = ALONE,
) -> tuple[TwoTower, ItemOutputs]:
    """The trained towers, and every item's vectors.

    A process of a group computes every item and its share of a batch's users.

    Raises:
        ValueError: a target type that the catalogue lacks.
    """
    inputs = _item_inputs(data, config)
    torch.manual_seed(seed)
    model = _model(data, inputs, config)
    optimizer = _optimizer(model, config)
    groups = _competitions(data.catalogue, config)
    hiding = Hiding(config.hide_share, config.hide_all, config.drop_others, config.user_weight)
    schedule = _Schedule(optimizer, total=config.epochs * _steps(data, groups, config))
    done = checkpoint.resume(model, optimizer) if checkpoint else 0
    schedule.step = done * _steps(data, groups, config)
    group.agree(model)
    model.train()
    with reporter.bar("towers", config.epochs) as bar:
        if done:
            reporter.say(f"towers: going on after epoch {done}")
        bar.advance(done)
        for epoch in range(done, config.epochs):
            rng = np.random.default_rng((seed, epoch))
            torch.manual_seed(seed * 1_000_003 + epoch)
            losses = []
            for competing in groups:
                for histories, targets in epoch_batches(
                    data.histories,
                    data.user_features,
                    competing=competing,
                    hiding=hiding,
                    batch_size=config.batch_size,
                    rng=rng,
                ):
                    schedule.advance()
                    loss = _loss(
                        model, inputs, data, histories, targets, competing, config, rng, group
                    )
                    optimizer.zero_grad()
                    loss.backward()  # type: ignore[no-untyped-call]
                    group.sum_gradients(model)
                    optimizer.step()
                    losses.append(float(group.sum(loss.detach().clone())))
            if checkpoint and group.leads:
                checkpoint.save(model, optimizer, epoch=epoch + 1)
            bar.advance(1, f"loss {np.mean(losses):.4f}")
    model.eval()
    with torch.inference_mode():
        return model, model.items(inputs)


def _loss(
    model: TwoTower,
    inputs: ItemInputs,
    data: TowerData,
    histories: Histories,
    targets: Targets,
    competing: NDArray[np.int64],
    config: TowerConfig,
    rng: np.random.Generator,
    group: Group,
) -> Tensor:
    outputs = model.items(inputs)
    rows = torch.from_numpy(competing)
    correction = torch.zeros(len(rows))
    if config.negatives is not None:
        chosen, correction, targets = _sample(targets, len(rows), config.negatives, rng)
        rows = rows[chosen]
    mine = group.share(len(histories))
    if len(mine) < len(histories):
        histories, targets = share_of(histories, targets, mine)
    users = model.user_tower(histories, outputs.history_vectors, data.types)
    everything = len(rows) == len(outputs.vectors)
    vectors = outputs.vectors if everything else outputs.vectors[rows]
    bias = (outputs.bias if everything else outputs.bias[rows]) + correction
    loss = softmax_loss(users, vectors, bias, outputs.temperature, targets)
    return group.of_whole(loss, len(mine))


def _sample(
    targets: Targets, n_competing: int, negatives: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Targets]:
    """The batch's own items and uniform others, with the logQ correction of the latter."""
    wanted = torch.unique(targets.items)
    rest = np.setdiff1d(np.arange(n_competing), wanted.numpy(), assume_unique=True)
    drawn = rng.choice(rest, min(negatives, len(rest)), replace=False)
    chosen = torch.cat([wanted, torch.from_numpy(np.sort(drawn))])
    correction = torch.zeros(len(chosen))
    if len(drawn):
        correction[len(wanted) :] = float(np.log(len(rest) / len(drawn)))
    place = torch.full((n_competing,), -1)
    place[chosen] = torch.arange(len(chosen))
    seen = place[targets.seen_items]
    return (
        chosen,
        correction,
        replace(
            targets,
            items=place[targets.items],
            seen_users=targets.seen_users[seen >= 0],
            seen_items=seen[seen >= 0],
        ),
    )


def _model(data: TowerData, inputs: ItemInputs, config: TowerConfig) -> TwoTower:
    item_tower = ItemTower(
        n_items=len(data.catalogue),
        dimension=config.dimension,
        d_content=inputs.content.shape[1],
        d_graph=inputs.graph.shape[1],
        edge_types=tuple(inputs.edges),
        free_vectors=config.free_vectors,
        initial=None if data.initial is None else torch.from_numpy(data.initial),
        vector_dropout=config.vector_dropout,
        unit_history=config.unit_history,
    )
    if not inputs.edges and item_tower.free_history is not None and data.initial is not None:
        # Nothing is heard through the graph: a history starts as the sum of its items' vectors.
        item_tower.free_history.data.copy_(torch.from_numpy(data.initial))
    user_tower = UserTower(
        dimension=config.dimension,
        n_types=len(data.catalogue.types),
        n_features=data.user_features.shape[1],
        d_hidden=config.hidden,
    )
    return TwoTower(
        item_tower=item_tower,
        user_tower=user_tower,
        popularity=torch.from_numpy(data.popularity),
        temperature=config.temperature,
        popularity_gain=config.popularity_gain,
    )


def _item_inputs(data: TowerData, config: TowerConfig) -> ItemInputs:
    strengths = _strengths(data, config) if config.listens else {}
    scale = _unit_scale(strengths, data)
    ranges = data.catalogue.ranges
    return ItemInputs(
        content=torch.from_numpy(data.content),
        graph=torch.from_numpy(data.graph_vectors),
        edges={
            "-".join((source, relation, destination)): EdgeBlock(
                sources=slice(ranges[source].start, ranges[source].stop),
                destinations=slice(ranges[destination].start, ranges[destination].stop),
                strength=SparseOperator.from_csr(
                    torch.from_numpy(matrix.indptr.astype(np.int64)),
                    torch.from_numpy(matrix.indices.astype(np.int64)),
                    torch.from_numpy(matrix.data * scale),
                    matrix.shape,
                ),
            )
            for (source, relation, destination), matrix in strengths.items()
        },
        trained=torch.from_numpy(data.popularity > 0),
    )


def _strengths(data: TowerData, config: TowerConfig) -> dict[EdgeType, sp.csr_matrix]:
    """Strengths (n_sources, n_destinations) per edge type of what users did into a target type."""
    ranges = data.catalogue.ranges
    found = {}
    for (source, relation, destination), edges in data.graph.edges.items():
        wanted = config.target_types is None or destination in config.target_types
        if wanted and relation in (CO_INTERACTION, WEAK_SIGNAL):
            shape = (len(ranges[destination]), len(ranges[source]))
            matrix = sp.csr_matrix((edges.strength, edges.source, edges.indptr), shape=shape)
            found[source, relation, destination] = matrix.T.tocsr()
    return found


def _unit_scale(strengths: Mapping[EdgeType, sp.csr_matrix], data: TowerData) -> np.float32:
    """What makes the mean length of what a history item first hears 1.

    The free part of a history vector starts at zero and moves by Adam's fixed steps: were the part
    heard through the graph much shorter than those, it would be drowned within an epoch.
    """
    if data.initial is None or not strengths:
        return np.float32(1.0)
    heard = np.zeros_like(data.initial)
    ranges = data.catalogue.ranges
    for (source, _, destination), matrix in strengths.items():
        into, out_of = ranges[destination], ranges[source]
        heard[out_of.start : out_of.stop] += matrix @ data.initial[into.start : into.stop]
    lengths = np.linalg.norm(heard, axis=1)
    return np.float32(1.0 / max(float(lengths[lengths > 0].mean()), 1e-12))


def _competitions(catalogue: Catalogue, config: TowerConfig) -> list[NDArray[np.int64]]:
    """Which rows compete with each other: one group for all, or one per item type."""
    types = config.target_types or catalogue.types
    if config.within_type:
        return [np.flatnonzero(catalogue.mask([kind])) for kind in types]
    return [np.flatnonzero(catalogue.mask(types))]


def _steps(data: TowerData, groups: list[NDArray[np.int64]], config: TowerConfig) -> int:
    """Batches in an epoch."""
    users = [int((np.diff(data.histories[:, rows].indptr) > 0).sum()) for rows in groups]
    return sum(-(-n // config.batch_size) for n in users)


def _optimizer(model: TwoTower, config: TowerConfig) -> torch.optim.Adam:
    """Adam with a rate for what belongs to one item and another for what all items share."""
    free = ("item_tower.free", "item_tower.free_history", "item_tower.log_weight", "item_bias")
    named = dict(model.named_parameters())
    own = [value for name, value in named.items() if name in free]
    shared = [value for name, value in named.items() if name not in free]
    groups = [
        {"params": own, "lr": config.learning_rate_vectors},
        {"params": shared, "lr": config.learning_rate_networks},
    ]
    return torch.optim.Adam([group for group in groups if group["params"]], fused=True)


class _Schedule:
    """A short linear warm-up, then half a cosine down to a small rest."""

    def __init__(self, optimizer: torch.optim.Optimizer, *, total: int) -> None:
        self._optimizer = optimizer
        self._total = max(total, 1)
        self._peaks = [float(group["lr"]) for group in optimizer.param_groups]
        self.step = 0

    def advance(self) -> None:
        """Set the rates of the next step."""
        self.step += 1
        cosine = 0.5 * (1 + np.cos(np.pi * min(self.step / self._total, 1.0)))
        factor = min(1.0, self.step / WARM_UP_STEPS) * (FINAL_RATE + (1 - FINAL_RATE) * cosine)
        for group, peak in zip(self._optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * factor
