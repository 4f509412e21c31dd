"""A published recommender and the interactions after its training, as a stream of choices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feature_store.editions.memory_keys import MemoryKeys
from feature_store.editions.recommender import RecommenderEdition
from feature_store.interactions.dataset import Dataset
from feature_store.interactions.history import NEGATIVE_SIGNALS
from feature_store.registry import Manifest
from pipelines.memory.stream import Stream
from pipelines.memory.subject import Subject
from pipelines.progress import Reporter, Silent
from pipelines.recommender.config import RecommenderConfig
from pipelines.recommender.pipeline import make_split
from pipelines.recommender.preparation import prepare
from pipelines.recommender.training import train

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Negatives = Literal["auto", "uniform", "now"]
# A rating of at least this is a yes, as MovieLens data are usually read.
LIKED = 4.0
# "Now" is this many events, for negatives drawn from what is popular now.
NOW = 1_000
HISTORY = 200  # as many as the online store keeps
STREAM_SHARE, VALIDATION_SHARE = 0.2, 0.25
_BLOCK = 512


@dataclass(frozen=True)
class Choices:
    """n choices, whatever model looks at them, in time order.

    Attributes:
        user: (n,) int64. item: (n,) int64 row of `item_ids`. label: (n,) float32, 0 or 1.
        time_ms: (n,) int64.
        histories: what the user had done strictly before, newest first: (row, type).
    """

    item_ids: tuple[str, ...]
    user: IntArray
    item: IntArray
    label: FloatArray
    time_ms: IntArray
    histories: Sequence[Sequence[tuple[int, str]]]
    features: Sequence[dict[str, object]]
    real_negatives: bool

    def __len__(self) -> int:
        return len(self.user)


def subject(
    dataset: Dataset,
    edition: RecommenderEdition,
    manifest: Manifest,
    *,
    negatives: Negatives = "auto",
    since: datetime | None = None,
    config: RecommenderConfig | None = None,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> Subject:
    """The interactions that the version was not trained on, as it sees them.

    Args:
        dataset: tables with times.
        edition, manifest: the published version.
        negatives: where ratings do not say no: `uniform` over the items, or from what is popular
            `now`; `auto` is `now`, under which popularity cannot leak through the sampler.
        since: the stream's begin; by default what was held out from the version's own training
            where these are its tables, else the last fifth.
        config: of retraining, the version's own by default.
        seed: of sampled negatives.
        reporter: progress of retraining.

    Raises:
        ValueError: interactions without times, or none in the stream.
    """
    table = dataset.interactions
    if table["timestamp"].null_count() or table.is_empty():
        raise ValueError("a stream needs the time of every interaction, and these have none")
    config = config or RecommenderConfig.model_validate(manifest.config)
    begin, seen = _begin(dataset, manifest, since)
    events = choices(dataset, begin_ms=begin, negatives=negatives, seed=seed)
    if not len(events):
        raise ValueError(f"no interaction is later than {_day(begin)}: give an earlier --since")
    validation = int(len(events) * VALIDATION_SHARE) // 2 * 2
    view = _View.of(events, edition, validation)

    def retrained(known: int) -> Stream | None:
        until = int(events.time_ms[min(known, len(events) - 1)])
        try:
            prepared = prepare(dataset)
            assert prepared.log.timestamp_ms is not None  # checked above
            known_log = prepared.log.take(prepared.log.timestamp_ms < until)
            newer = train(prepared, known_log, config, reporter=Silent()).edition
        except ValueError as error:
            (reporter or Silent()).say(f"not retrained at {_day(until)}: {error}")
            return None
        return view.through(newer).stream

    how = "ratings below 4" if events.real_negatives else f"sampled, {_sampler(negatives)}"
    return Subject(
        name=manifest.model,
        stream=view.stream,
        classes=(),
        validation=validation,
        network=lambda: ScoreNetwork(view),
        retrained=retrained,
        notes={
            "version": manifest.version,
            "events": f"{len(events):,} from {_day(begin)} on",
            "seen in training": seen,
            "negatives": how,
            "incremental training": "item vectors, biases and a linear map of the user's vector",
        },
    )


def choices(dataset: Dataset, *, begin_ms: int, negatives: Negatives, seed: int) -> Choices:
    """Every interaction from `begin_ms` on; with one sampled no each, where no rating says no."""
    table = dataset.interactions.sort("timestamp", maintain_order=True)
    item_ids = tuple(sorted(set(table["item_id"].unique()) | set(dataset.items["item_id"])))
    item = _codes(table["item_id"], item_ids)
    user_ids = tuple(sorted(table["user_id"].unique().to_list()))
    user = _codes(table["user_id"], user_ids)
    time_ms = table["timestamp"].dt.epoch("ms").to_numpy().astype(np.int64)
    kinds = table["type"].to_list()
    rated = table["type"].to_numpy() == "rating"
    weight = table["weight"].to_numpy()
    no = np.isin(table["type"].to_numpy(), list(NEGATIVE_SIGNALS)) | (rated & (weight < LIKED))
    real = bool(no[time_ms >= begin_ms].mean() > 0.02) if (time_ms >= begin_ms).any() else False
    before: dict[int, list[tuple[int, str]]] = defaultdict(list)
    waiting: list[tuple[int, tuple[int, str]]] = []
    now = -1
    rows: list[int] = []
    histories: list[list[tuple[int, str]]] = []
    for row, (who, what, when, kind) in enumerate(
        zip(user.tolist(), item.tolist(), time_ms.tolist(), kinds, strict=True)
    ):
        if when > now:  # what happened at the same instant is not known yet
            for each, event in waiting:
                before[each].append(event)
            waiting, now = [], when
        if when >= begin_ms:
            rows.append(row)
            histories.append(before[who][: -HISTORY - 1 : -1])
        waiting.append((who, (what, kind)))
    at = np.array(rows, np.int64)
    features = _features(dataset, user_ids)
    label = (~no[at]).astype(np.float32)
    if real:
        return Choices(
            item_ids, user[at], item[at], label, time_ms[at], histories,
            [features[who] for who in user[at]], real_negatives=True,
        )  # fmt: skip
    rng = np.random.default_rng(seed)
    if negatives == "uniform":
        other = rng.integers(0, len(item_ids), len(at))
    else:
        other = item[np.maximum(at - 1 - rng.integers(0, NOW, len(at)), 0)]
    both = np.repeat(at, 2)
    return Choices(
        item_ids,
        user[both],
        np.stack([item[at], other], 1).ravel(),
        np.stack([label, np.zeros_like(label)], 1).ravel(),
        time_ms[both],
        [each for each in histories for _ in range(2)],
        [features[who] for who in user[both]],
        real_negatives=False,
    )


class ScoreNetwork(nn.Module):
    """What incremental training trains: the score's own form, with the user tower frozen.

        logit = a · (M u · z_i / T + b_i) + c

    Shapes:
        inputs: (B, 2 + d) float32: item row (-1: unknown), frozen score of what it cannot train,
            user vector. returns: (B, 1).
    """

    def __init__(self, view: _View) -> None:
        super().__init__()
        edition = view.edition
        n, d = edition.item_vectors.shape
        # The last row stands for items that the version does not know.
        vectors = np.vstack([edition.item_vectors, np.zeros((1, d), np.float32)])
        self.items = nn.Parameter(torch.from_numpy(vectors / edition.scoring.temperature))
        bias = np.append(edition.bias, np.float32(0))[:, None]
        self.bias = nn.Parameter(torch.from_numpy(bias))
        self.map = nn.Linear(d, d, bias=False)
        nn.init.eye_(self.map.weight)
        self.scale = nn.Parameter(torch.tensor(view.slope))
        self.shift = nn.Parameter(torch.tensor(view.level))
        self.n = n

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        rows = inputs[:, 0].long()
        rows = torch.where(rows < 0, self.n, rows)
        score = (self.map(inputs[:, 2:]) * self.items[rows]).sum(1, keepdim=True)
        score = score + self.bias[rows] + inputs[:, 1:2]
        logits: Tensor = self.scale * score + self.shift
        return logits


@dataclass(frozen=True)
class _View:
    """The choices as one edition sees them; probability = σ(slope · score + level)."""

    events: Choices
    edition: RecommenderEdition
    stream: Stream
    slope: float
    level: float

    @classmethod
    def of(cls, events: Choices, edition: RecommenderEdition, validation: int) -> _View:
        """Slope and level are fitted on the first events: a level that is wrong for all alike is
        no error that a memory should shine with."""
        parts = _seen(events, edition)
        slope, level = _fitted(parts[0][:validation], events.label[:validation])
        return cls._with(events, edition, parts, slope, level)

    def through(self, edition: RecommenderEdition) -> _View:
        """The same choices as another edition sees them, on the same scale."""
        parts = _seen(self.events, edition)
        return self._with(self.events, edition, parts, self.slope, self.level)

    @classmethod
    def _with(
        cls,
        events: Choices,
        edition: RecommenderEdition,
        parts: tuple[FloatArray, FloatArray, FloatArray],
        slope: float,
        level: float,
    ) -> _View:
        score, keys, inputs = parts
        p = 1 / (1 + np.exp(-np.clip(slope * score + level, -12, 12)))
        stream = Stream(
            inputs=inputs,
            keys=keys,
            predictions=p.astype(np.float32)[:, None],
            labels=events.label[:, None],
            groups=events.user,
            items=events.item,
            time_s=events.time_ms / 1e3,
        )
        return cls(events, edition, stream, slope, level)


def _seen(
    events: Choices, edition: RecommenderEdition
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Scores (n,), keys (n, 2p) and the network's inputs (n, 2 + d)."""
    row_of = edition.catalogue.row_of
    rows_of = np.array([row_of.get(each, -1) for each in events.item_ids], np.int64)
    keys_of = MemoryKeys(edition.item_vectors)
    n, d = len(events), edition.item_vectors.shape[1]
    score, keys = np.empty(n, np.float32), np.empty((n, keys_of.d), np.float32)
    inputs = np.empty((n, 2 + d), np.float32)
    for start in range(0, n, _BLOCK):
        part = slice(start, min(start + _BLOCK, n))
        weighed = edition.weigh(
            [[(int(rows_of[item]), kind) for item, kind in h] for h in events.histories[part]]
        )
        features = edition.user_features.encode(events.features[part])
        users = edition.user_vectors(weighed, features)
        shares = edition.popularity_share(weighed, features)
        rows = rows_of[events.item[part]]
        there = np.maximum(rows, 0)
        own = (users * edition.item_vectors[there]).sum(1) / edition.scoring.temperature
        own += edition.bias[there]
        said = edition.pair_scores(users, shares, weighed, who=np.arange(len(there)), rows=there)
        said = np.where(rows < 0, 0.0, said)
        score[part] = said
        keys[part] = np.where(rows[:, None] < 0, 0.0, keys_of(users, there))
        trained = np.where(rows < 0, 0.0, own)
        inputs[part] = np.column_stack([rows, said - trained, users])
    return score, keys, inputs


def _fitted(score: FloatArray, label: FloatArray, *, steps: int = 50) -> tuple[float, float]:
    """Slope and level of a logistic regression (Platt, 1999), by Newton's method."""
    design = np.column_stack([score, np.ones_like(score)]).astype(np.float64)
    w = np.zeros(2)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(design @ w, -30, 30)))
        gradient = design.T @ (p - label) + 1e-3 * w
        curvature = (design * (p * (1 - p))[:, None]).T @ design + 1e-3 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        w -= step
        if np.abs(step).max() < 1e-6:
            break
    return max(float(w[0]), 1e-3), float(w[1])


def _begin(dataset: Dataset, manifest: Manifest, since: datetime | None) -> tuple[int, str]:
    """Where the stream begins, and whether the version had seen it."""
    own = manifest.data_fingerprint == dataset.fingerprint()
    if own:
        config = RecommenderConfig.model_validate(manifest.config)
        prepared = prepare(dataset)
        split = make_split(prepared, config.split)
        held = split.part == "test"
        time_ms = prepared.log.timestamp_ms
        assert time_ms is not None  # the caller has looked
        cut, last = int(time_ms[held].min()), int(time_ms[~held].max())
        if last < cut or config.split.kind in ("auto", "temporal"):
            if since is None:
                return cut, "no: held out from the version's training"
            began = int(since.timestamp() * 1e3)
            seen = "no: held out from the version's training" if began >= cut else "in part"
            return began, seen
    if since is not None:
        began = int(since.timestamp() * 1e3)
    else:
        times = dataset.interactions["timestamp"].dt.epoch("ms").to_numpy()
        began = int(np.quantile(times, 1 - STREAM_SHARE))
    if own:
        return began, "in part: the version's split is not one of time"
    later = began > manifest.created_at.timestamp() * 1e3
    return began, "no: later than the version" if later else "perhaps: these are other tables"


def _features(dataset: Dataset, user_ids: Sequence[str]) -> list[dict[str, object]]:
    if dataset.users is None:
        return [{}] * len(user_ids)
    known = {row.pop("user_id"): row for row in dataset.users.to_dicts()}
    return [known.get(user_id, {}) for user_id in user_ids]


def _codes(column: pl.Series, ids: Sequence[str]) -> IntArray:
    codes = {each: row for row, each in enumerate(ids)}
    return np.array([codes[each] for each in column.to_list()], np.int64)


def _sampler(negatives: Negatives) -> str:
    return "uniform" if negatives == "uniform" else "from what is popular now"


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1e3, UTC).isoformat(timespec="minutes")
