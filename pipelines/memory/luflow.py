"""LUFlow: honeypot flows labelled benign, malicious or outlier, a zipped CSV per day.

The model is a small network trained on the first day and then frozen. It sees what a flow is
(sizes, counts, entropy, duration, protocol, whether an end is the university's network) and neither
addresses nor ports.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import nn

from feature_store.error_memory import KeySpace
from pipelines.memory.stream import Stream

FloatArray = NDArray[np.float32]
_LOGGED = ("avg_ipt", "bytes_in", "bytes_out", "num_pkts_out", "num_pkts_in", "total_entropy")
_NUMERIC = (*_LOGGED, "duration", "entropy")
_OWN_NETWORK = "786"  # JANET's autonomous system
# Times lost their trailing zeros together with the decimal point: 16 digits are microseconds.
_DIGITS = 16


@dataclass(frozen=True)
class Days:
    """Flows in the order in which they ended.

    Attributes:
        inputs: (n, f) float32, not scaled. labels: (n,) int64 in `classes`.
        day: (n,) int64 position in `names`.
    """

    inputs: FloatArray
    labels: NDArray[np.int64]
    day: NDArray[np.int64]
    time_s: NDArray[np.float64]
    names: tuple[str, ...]
    classes: tuple[str, ...]


def load_days(folder: Path, *, most: int | None = None) -> Days:
    """Read every `YYYY.MM.DD.zip` (or `.csv`) of `folder`, or only the `most` first.

    Raises:
        ValueError: fewer than three days: one trains, one validates, the rest streams.
    """
    files = sorted([*folder.glob("*.zip"), *folder.glob("*.csv")])[:most]
    if len(files) < 3:
        raise ValueError(f"{folder} holds {len(files)} days; three are the least")
    table = pl.concat([_read(file).with_columns(day=pl.lit(i)) for i, file in enumerate(files)])
    table = table.with_columns(
        time=pl.col("time_end").str.pad_end(_DIGITS, "0").str.slice(0, _DIGITS).cast(pl.Float64)
        / 1e6
    ).sort("day", "time", maintain_order=True)
    numbers = table.select(pl.col(c).cast(pl.Float64, strict=False).fill_null(0) for c in _NUMERIC)
    values = numbers.to_numpy()
    logged = np.log1p(np.clip(values[:, : len(_LOGGED) + 1], 0, None))
    classes = tuple(sorted(table["label"].unique().to_list()))
    labels = table["label"].replace_strict(list(classes), list(range(len(classes))))
    return Days(
        inputs=np.hstack([logged, values[:, -1:], _flags(table)]).astype(np.float32),
        labels=labels.cast(pl.Int64).to_numpy(),
        day=table["day"].cast(pl.Int64).to_numpy(),
        time_s=table["time"].to_numpy(),
        names=tuple(file.stem for file in files),
        classes=classes,
    )


def frozen_model(days: Days, train_day: int, seed: int, epochs: int = 12) -> nn.Sequential:
    """The network trained on one day; it takes the scaled inputs of `frozen_stream`."""
    trained = days.day == train_day
    inputs = _scale(days.inputs, trained)[trained]
    return train_network(inputs, days.labels[trained], len(days.classes), seed, epochs)


def frozen_stream(days: Days, *, train_day: int, seed: int) -> Stream:
    """All flows as `frozen_model` sees them; a key is both of its hidden layers."""
    trained = days.day == train_day
    inputs = _scale(days.inputs, trained)
    labels = np.eye(len(days.classes), dtype=np.float32)[days.labels]
    network = frozen_model(days, train_day, seed)
    with torch.inference_mode():
        first = network[:2](torch.from_numpy(inputs))
        second = network[2:4](first)
        predictions = network[4:](second).softmax(1).numpy()
    scaled = [KeySpace.fit(h[trained])(h) for h in (first.numpy(), second.numpy())]
    none = np.zeros(len(labels), np.int64)
    return Stream(
        inputs=inputs,
        keys=(np.hstack(scaled) / np.sqrt(len(scaled))).astype(np.float32),
        predictions=predictions,
        labels=labels,
        groups=none,
        items=none,
        time_s=days.time_s,
    )


def train_network(
    inputs: FloatArray, labels: NDArray[np.int64], n_classes: int, seed: int, epochs: int
) -> nn.Sequential:
    """Two hidden layers (64, 32), AdamW, the learning rate falling to 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = nn.Sequential(
            *(nn.Linear(inputs.shape[1], 64), nn.ReLU()),
            *(nn.Linear(64, 32), nn.ReLU()),
            nn.Linear(32, n_classes),
        )
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.02, total_iters=epochs)
    x, y = torch.from_numpy(inputs), torch.from_numpy(labels)
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator)
        for rows in torch.split(order, 512):
            loss = nn.functional.cross_entropy(network(x[rows]), y[rows], label_smoothing=0.01)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        schedule.step()
    return network.eval()


def _scale(inputs: FloatArray, trained: NDArray[np.bool_]) -> FloatArray:
    mean, spread = inputs[trained].mean(0), inputs[trained].std(0) + 1e-6
    scaled: FloatArray = np.clip((inputs - mean) / spread, -6, 6).astype(np.float32)
    return scaled


def _flags(table: pl.DataFrame) -> NDArray[np.float64]:
    columns = [(table["proto"] == number).to_numpy() for number in ("1", "6", "17")]
    columns += [(table[name] == _OWN_NETWORK).to_numpy() for name in ("dest_ip", "src_ip")]
    return np.stack(columns, axis=1).astype(np.float64)


def _read(file: Path) -> pl.DataFrame:
    if file.suffix == ".csv":
        return pl.read_csv(file, infer_schema_length=0)
    with zipfile.ZipFile(file) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".csv"))
        return pl.read_csv(io.BytesIO(archive.read(name)), infer_schema_length=0)
