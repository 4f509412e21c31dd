"""Streams of users' choices: ratings with real negatives, or events with sampled ones.

The model is a small network over an item's embedding and the mean embedding of what the user chose
before, at that time; it needs no vector per user. It is trained on the first half and then frozen.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from feature_store.error_memory import KeySpace
from pipelines.memory.stream import Stream

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
HISTORY = 10
LIKED = 4.0
# "Now" is this many events, for negatives drawn from what is popular now.
NOW = 1_000


@dataclass(frozen=True)
class Events:
    """In the order of time; users and items are numbered from 0, labels 0 or 1."""

    users: IntArray
    items: IntArray
    labels: FloatArray
    time_s: NDArray[np.float64]


def load_events(folder: Path, *, negatives: str, seed: int, most: int | None = None) -> Events:
    """Read `events.npz`, or the one table of `folder` (CSV or tab-separated, plain or gzipped).

    A rating of at least 4 is a yes, below it a no; without ratings every event is a yes and gets
    one no, drawn as `negatives` says: `uniform` over the items, or `now` from the latest events.

    Raises:
        ValueError: no table, or one without user, item and time.
    """
    if (folder / "events.npz").exists():
        arrays = np.load(folder / "events.npz")
        users, items, time = arrays["user"], arrays["item"], arrays["ts"].astype(np.float64)
        rating = None
    else:
        table = _table(folder)
        names = {name.split(":")[0].lower().replace("_", ""): name for name in table.columns}
        try:
            users, items = (table[names[n]].to_numpy() for n in ("userid", names_of_item(names)))
            time = table[names["timestamp" if "timestamp" in names else "time"]].to_numpy()
        except KeyError as error:
            raise ValueError(f"{folder}: no column {error} among {table.columns}") from error
        rating = table[names["rating"]].to_numpy() if "rating" in names else None
    order = np.argsort(time, kind="stable")[:most]
    users, items = (np.unique(each[order], return_inverse=True)[1] for each in (users, items))
    time = time[order].astype(np.float64)
    if rating is not None:
        return Events(users, items, (rating[order] >= LIKED).astype(np.float32), time)
    rng = np.random.default_rng(seed)
    n = len(items)
    if negatives == "now":
        no = items[np.maximum(np.arange(n) - 1 - rng.integers(0, NOW, n), 0)]
    else:
        no = rng.integers(0, items.max() + 1, n)
    return Events(
        np.repeat(users, 2),
        np.stack([items, no], 1).ravel(),
        np.tile(np.array([1, 0], np.float32), n),
        np.repeat(time, 2),
    )


def names_of_item(names: dict[str, str]) -> str:
    """What the item's column is called."""
    return "movieid" if "movieid" in names else "itemid"


class ChoiceNetwork(nn.Module):
    """Logit of a choice.

    Shapes:
        inputs: (B, 1 + HISTORY) float32 item numbers from 1, 0 is nothing; the item comes first.
        returns: (B, 1).
    """

    def __init__(self, n_items: int, dimension: int = 16, width: int = 32) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, dimension, padding_idx=0)
        self.bias = nn.Embedding(n_items + 1, 1)
        nn.init.normal_(self.items.weight, std=0.1)
        nn.init.zeros_(self.bias.weight)
        self.hidden = nn.Linear(3 * dimension, width)
        self.out = nn.Linear(width, 1)

    def keys(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The hidden layer (B, width) and the item's embedding (B, dimension)."""
        rows = inputs.long()
        item, history = self.items(rows[:, 0]), self.items(rows[:, 1:])
        known = (rows[:, 1:] > 0).sum(1, keepdim=True).clamp(min=1)
        user = history.sum(1) / known
        return torch.relu(self.hidden(torch.cat([item, user, item * user * 10], 1))), item

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        hidden, _ = self.keys(inputs)
        logits: Tensor = self.out(hidden) + self.bias(inputs[:, 0].long())
        return logits


def choice_stream(events: Events, *, seed: int, epochs: int = 3) -> tuple[Stream, ChoiceNetwork]:
    """All events as the network trained on the first half sees them."""
    inputs = np.concatenate([events.items[:, None] + 1, histories(events)], 1).astype(np.float32)
    labels = events.labels[:, None]
    half = len(labels) // 2
    torch.manual_seed(seed)
    network = ChoiceNetwork(int(events.items.max()) + 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(half, generator=generator), 512):
            loss = nn.functional.binary_cross_entropy_with_logits(network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    network.eval()
    with torch.inference_mode():
        predictions = network(x).sigmoid().numpy()
        hidden, item = (each.numpy() for each in network.keys(x))
    keys = [KeySpace.fit(each[:half])(each) for each in (hidden, item)]
    stream = Stream(
        inputs=inputs,
        keys=(np.hstack(keys) / np.sqrt(2)).astype(np.float32),
        predictions=predictions,
        labels=labels,
        groups=events.users,
        items=events.items,
        time_s=events.time_s,
    )
    return stream, network


def histories(events: Events) -> IntArray:
    """(n, HISTORY) what the user had chosen before, as numbers from 1; 0 is nothing."""
    chosen: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=HISTORY))
    out = np.zeros((len(events.items), HISTORY), np.int64)
    # A choice at the same instant is not known yet: it waits until time has moved on.
    waiting: list[tuple[int, int]] = []
    now = -np.inf
    columns = (events.users, events.items, events.labels, events.time_s)
    for row, (user, item, label, time) in enumerate(
        zip(*(each.tolist() for each in columns), strict=True)
    ):
        if time > now:
            for who, what in waiting:
                chosen[who].append(what)
            waiting, now = [], time
        before = chosen[user]
        out[row, : len(before)] = before
        if label > 0:
            waiting.append((user, item + 1))
    return out


def _table(folder: Path) -> pl.DataFrame:
    files = [
        each for each in sorted(folder.iterdir()) if ".csv" in each.name or ".inter" in each.name
    ]
    if not files:
        raise ValueError(f"{folder} holds neither events.npz nor a .csv or .inter table")
    head = pl.read_csv(files[0], n_rows=1, separator="\n", has_header=False).item(0, 0)
    return pl.read_csv(files[0], separator="\t" if "\t" in head else ",")
