"""Which class a flow belongs to: by folder, by the device's MAC address, or by a table of flows."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from feature_store.traffic.flows import FlowBatch

CAPTURE_SUFFIXES = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz", ".cap.gz")
# A number at the end of a file's name counts the captures of one class: chat_1.pcap, chat_2.pcap.
FILE_PATTERN = r"(?P<label>.+?)(?:[-_](?:lt)?\d+)?"
LABEL_TABLE = "labels.csv"
_MAC = re.compile(r"(?:[0-9a-f]{2}[:-]){5}[0-9a-f]{2}", re.IGNORECASE)
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "icmpv6": 58, "sctp": 132}
_FLOW_COLUMNS = ("src", "src_port", "dst", "dst_port", "protocol", "label")


class LabelSource(Protocol):
    """Names the classes of a capture's flows."""

    def labels(self, capture: Path, flows: FlowBatch) -> NDArray[np.object_]:
        """(n,) str; empty where the flow has no label and is used for pre-training alone."""


@dataclass(frozen=True)
class FolderLabels:
    """`root/CLASS/….pcap`; a capture directly in `root` is named after its class.

    Attributes:
        root: the data directory.
        pattern: of a file name without suffix, for captures directly in `root`; its group `label`
            is the class.
    """

    root: Path
    pattern: str = FILE_PATTERN

    def labels(self, capture: Path, flows: FlowBatch) -> NDArray[np.object_]:
        """See `LabelSource`."""
        return np.full(len(flows), self.label(capture), object)

    def label(self, capture: Path) -> str:
        """The class that a capture's place says; empty when its name does not fit the pattern."""
        place = capture.relative_to(self.root)
        if len(place.parts) > 1:
            return place.parts[0]
        matched = re.fullmatch(self.pattern, _stem(capture))
        return matched["label"] if matched else ""


@dataclass(frozen=True)
class DeviceLabels:
    """A flow belongs to the device whose MAC address sent or received it.

    Attributes:
        devices: MAC address as a 48-bit number → class, for every capture.
        folders: class folder → (MAC address, class) of the device captured in it. A folder's own
            device comes before `devices`, so that two set-ups of one device can be told apart.
        root: the data directory.
    """

    devices: Mapping[int, str]
    folders: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    root: Path = Path()

    def labels(self, capture: Path, flows: FlowBatch) -> NDArray[np.object_]:
        """See `LabelSource`."""
        found = np.full(len(flows), "", object)
        devices = dict(self.devices)
        folder = capture.relative_to(self.root).parts[0]
        if folder in self.folders:
            mac, label = self.folders[folder]
            devices = {mac: label}
        for mac, label in devices.items():
            of_device = (flows.flow["src_mac"] == mac) | (flows.flow["dst_mac"] == mac)
            found[of_device] = label
        return found


@dataclass(frozen=True)
class FlowLabels:
    """A table with a row per flow: 5-tuple (either way round), optional time range and capture.

    Attributes:
        rows: key → (begin ns, end ns, capture's name or empty, label), in the table's order.
    """

    rows: Mapping[tuple[object, ...], Sequence[tuple[int, int, str, str]]]

    def labels(self, capture: Path, flows: FlowBatch) -> NDArray[np.object_]:
        """See `LabelSource`."""
        found = np.full(len(flows), "", object)
        for row, flow in enumerate(flows.flow):
            ends = _ends(
                (int(flow["src_hi"]), int(flow["src_lo"]), int(flow["src_port"])),
                (int(flow["dst_hi"]), int(flow["dst_lo"]), int(flow["dst_port"])),
            )
            for begin, end, name, label in self.rows.get((*ends, int(flow["protocol"])), ()):
                overlaps = flow["first_ns"] <= end and flow["last_ns"] >= begin
                if overlaps and name in ("", capture.name):
                    found[row] = label
                    break
        return found


def find_captures(root: Path) -> list[Path]:
    """Every capture below a directory, or the one that `root` is, in order of name.

    Raises:
        FileNotFoundError: there is no such path, or no capture in it.
    """
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise FileNotFoundError(f"{root} does not exist")
    found = sorted(
        path
        for path in root.rglob("*")
        if path.name.lower().endswith(CAPTURE_SUFFIXES) and path.is_file()
    )
    if not found:
        raise FileNotFoundError(f"{root} holds no capture ({', '.join(CAPTURE_SUFFIXES)})")
    return found


def find_labels(
    root: Path, *, table: Path | None = None, pattern: str = FILE_PATTERN
) -> LabelSource:
    """The label source of a data directory.

    In this order: `table`, or `labels.csv` in the directory, with columns `mac,label` or
    `src,src_port,dst,dst_port,protocol,label` and optional `begin,end` (seconds since 1970, or
    ISO times) and `capture` (a file's name); a file `*mac*.txt` with a MAC address in class
    folders; the folders themselves.

    Raises:
        ValueError: the table lacks columns or has an unreadable row (named by its line).
    """
    directory = root if root.is_dir() else root.parent
    if table is None and (directory / LABEL_TABLE).is_file():
        table = directory / LABEL_TABLE
    if table is not None:
        return _read_table(table, directory)
    devices = _device_files(directory)
    if devices:
        return DeviceLabels(devices={}, folders=devices, root=directory)
    return FolderLabels(directory, pattern)


def _device_files(root: Path) -> dict[str, tuple[int, str]]:
    found = {}
    for path in sorted(root.glob("*/*mac*.txt")):
        matched = _MAC.search(path.read_text(errors="replace"))
        if matched:
            found[path.parent.name] = (_mac_number(matched[0]), path.parent.name)
    return found


def _read_table(path: Path, root: Path) -> LabelSource:
    table = pl.read_csv(path, infer_schema=False)
    columns = set(table.columns)
    if {"mac", "label"} <= columns:
        devices = {}
        for line, row in enumerate(table.iter_rows(named=True), start=2):
            if not _MAC.fullmatch((row["mac"] or "").strip()):
                raise ValueError(f"{path}:{line}: '{row['mac']}' is no MAC address")
            devices[_mac_number(row["mac"].strip())] = row["label"]
        return DeviceLabels(devices=devices, root=root)
    if missing := [name for name in _FLOW_COLUMNS if name not in columns]:
        raise ValueError(
            f"{path} needs the columns mac,label or {','.join(_FLOW_COLUMNS)}; "
            f"it lacks {', '.join(missing)}"
        )
    rows: dict[tuple[object, ...], list[tuple[int, int, str, str]]] = {}
    for line, row in enumerate(table.iter_rows(named=True), start=2):
        try:
            key = (
                *_ends(
                    (*_address(row["src"]), int(row["src_port"] or 0)),
                    (*_address(row["dst"]), int(row["dst_port"] or 0)),
                ),
                _protocol(row["protocol"]),
            )
            begin = _time_ns(row["begin"]) if row.get("begin") else 0
            end = _time_ns(row["end"]) if row.get("end") else np.iinfo(np.int64).max
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}:{line}: {error}") from error
        if row["label"]:
            rows.setdefault(key, []).append(
                (begin, int(end), row.get("capture") or "", row["label"])
            )
    return FlowLabels(rows)


def _time_ns(text: str) -> int:
    """Nanoseconds since 1970 of seconds since then, or of an ISO time; without a zone it is UTC."""
    with suppress(ValueError):
        return round(float(text) * 1e9)
    try:
        time = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ValueError(
            f"'{text}' is no time: give seconds since 1970, or one like 2015-06-04T12:33:30+00:00"
        ) from error
    since = (time if time.tzinfo else time.replace(tzinfo=UTC)) - datetime.fromtimestamp(0, UTC)
    return round(since / timedelta(microseconds=1)) * 1000


def _ends(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (one, other) if one <= other else (other, one)


def _address(text: str) -> tuple[int, int]:
    """High and low 64 bits; IPv4 is ::ffff:a.b.c.d, as in `FLOW`."""
    address = ipaddress.ip_address(text.strip())
    number = int(address) | (0xFFFF << 32 if address.version == 4 else 0)
    return number >> 64, number & (2**64 - 1)


def _protocol(text: str) -> int:
    name = text.strip().lower()
    if name not in _PROTOCOLS and not name.isdecimal():
        raise ValueError(f"'{text}' is no protocol: give {', '.join(_PROTOCOLS)} or its number")
    return _PROTOCOLS[name] if name in _PROTOCOLS else int(name)


def _mac_number(text: str) -> int:
    return int(text.replace(":", "").replace("-", ""), 16)


def _stem(path: Path) -> str:
    lengths = (len(each) for each in CAPTURE_SUFFIXES if path.name.lower().endswith(each))
    return path.name[: len(path.name) - max(lengths, default=0)]
