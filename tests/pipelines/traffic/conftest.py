"""Labelled captures, made packet by packet: three applications that differ in sizes and gaps."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from feature_store.traffic.flows import FlowSettings
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import LabelledFlows, read_labelled_flows
from pipelines.traffic.labels import find_captures, find_labels
from tests.feature_store.traffic.conftest import ACK, PSH, SYN, ethernet, ipv4, pcap, tcp, udp

PACKETS = 8
CLIENT, SERVER = "192.0.2.1", "198.51.100.1"


@dataclass(frozen=True)
class Application:
    """How a class talks: packets a flow, sizes up and down, and the mean gap."""

    packets: int
    up: int
    down: int
    gap_s: float
    transport: str = "tcp"


APPLICATIONS = {
    "video": Application(packets=12, up=60, down=1400, gap_s=0.002),
    "chat": Application(packets=6, up=120, down=150, gap_s=0.5),
    "lookup": Application(packets=2, up=40, down=90, gap_s=0.02, transport="udp"),
}


def conversation(
    application: Application, rng: np.random.Generator, begin_s: float, port: int
) -> list[tuple[int, bytes]]:
    """(time in ns, Ethernet frame) of one flow."""
    now, packets = begin_s, []
    for number in range(application.packets):
        upwards = number % 3 == 0
        payload = bytes(int(rng.normal(application.up if upwards else application.down, 6)))
        ports = {"sport": port, "dport": 443} if upwards else {"sport": 443, "dport": port}
        ends = {"src": CLIENT, "dst": SERVER} if upwards else {"src": SERVER, "dst": CLIENT}
        if application.transport == "tcp":
            segment = tcp(payload, flags=SYN if number == 0 else ACK | PSH, **ports)
            frame = ethernet(ipv4(segment, 6, **ends))
        else:
            frame = ethernet(ipv4(udp(payload, **ports), 17, **ends))
        packets.append((round(now * 1e9), frame))
        now += float(rng.exponential(application.gap_s))
    return packets


def write_recording(
    path: Path, application: Application, *, flows: int, begin_s: float, seed: int
) -> None:
    """One capture file of one class."""
    rng = np.random.default_rng(seed)
    packets = []
    for flow in range(flows):
        packets += conversation(application, rng, begin_s + 0.5 * flow, port=10_000 + flow)
    packets.sort(key=lambda packet: packet[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [divmod(at, 1_000_000_000) for at, _ in packets]
    path.write_bytes(pcap([frame for _, frame in packets], nanoseconds=True, times=times))


def write_captures(root: Path, *, recordings: int = 5, flows: int = 16) -> Path:
    """`root/CLASS/N.pcap`, an hour apart."""
    for label, (name, application) in enumerate(APPLICATIONS.items()):
        for number in range(recordings):
            write_recording(
                root / name / f"{number}.pcap",
                application,
                flows=flows,
                begin_s=1_700_000_000 + 3_600 * number + 600 * label,
                seed=100 * label + number,
            )
    return root


@pytest.fixture(scope="session")
def captures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_captures(tmp_path_factory.mktemp("captures"))


@pytest.fixture(scope="session")
def labelled(captures: Path) -> LabelledFlows:
    return read_labelled_flows(
        find_captures(captures),
        find_labels(captures),
        root=captures,
        settings=FlowSettings(kept_packets=PACKETS),
    )


@pytest.fixture(scope="session")
def small() -> TrafficConfig:
    """A configuration that trains in seconds."""
    return TrafficConfig(threads=1).changed(
        **{
            "network.packets": PACKETS,
            "network.encoder.d_model": 24,
            "network.encoder.layers": 1,
            "network.epochs": 6,
            "pretraining.epochs": 1,
            "tree.rounds": 20,
            "forest.trees": 20,
            "evaluation.resamples": 20,
        }
    )
