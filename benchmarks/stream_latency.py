"""From a packet to its verdict: a capture replayed at its own speed, then as fast as possible.

    python -m benchmarks.stream_latency [--quick] [--data CAPTURE | FOLDER] [--edition DIR]

A CAPTURE is replayed as it is. From a FOLDER (default: $ERRATA_DATA/traffic/iscx_vpn2016) a capture
is made whose flows are the folder's conversations, each at its own pace, 200 of them beginning a
second. Each packet is handed over when it is due; a verdict's latency is the time from there until
its micro-batch comes out, whatever waited or was computed before it. Verdicts on flows that ended
in silence have no packet and no latency.

The edition has the shape that ships: a network of 64 × 2 that reads 20 packets, 120 rounds of
boosted trees for 12 classes, and a forest of 200. It learned labels that were drawn at random, and
its thresholds are never reached, so that every one of a flow's first 20 packets is read: the
slowest case. The network has the say that --network-weight gives it: by default none, as
cross-validation had it on both public sets, and then it is read for final verdicts alone.
--edition DIR takes a trained one, with its early exits, as `errata train traffic` publishes it.

`cpu_share` is the process's own time on a core over the wall's: on a machine that others use too it
says how much of a core is needed. `flood` replays 20 times as fast: what is shed then, and whether
latency holds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import Result, parse
from benchmarks.packets import PCAP_HEADER
from feature_store.editions.traffic import Decision, TrafficEdition, build_network, read_network
from feature_store.error_memory import KeySpace
from feature_store.traffic import FlowMeter, read_flows
from feature_store.traffic.capture import NotACaptureError, PacketBatch, open_capture
from feature_store.traffic.features import Tier
from feature_store.traffic.flows import HEADER_FIELDS, FlowBatch
from feature_store.traffic.packets.decoder import PacketDecoder
from feature_store.traffic.packets.outcome import Outcome
from models.traffic.embedding import EmbeddingConfig
from pipelines.progress import Silent
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import LabelledPart
from pipelines.traffic.train_forest import train_forest
from pipelines.traffic.train_tree import train_tree
from services.classify.source import open_source
from services.classify.stream import ServedEdition, StreamClassifier, classify
from services.classify.verdict import Reason

PACKETS, CLASSES = 20, 12
FLOOD_SPEED = 20.0


def main() -> None:
    """Run the benchmark."""
    options: dict[str, dict[str, Any]] = {
        "--edition": {"type": Path, "help": "directory of a trained edition"},
        "--network-weight": {"type": float, "default": 0.0, "help": "of 1; default: 0"},
        "--rate": {"type": float, "default": 200.0, "help": "flows that begin a second"},
        "--duration": {"type": float, "help": "seconds; default: 30, or 8 with --quick"},
    }
    arguments = parse(__doc__, data="traffic/iscx_vpn2016", seeds=1, options=options)
    torch.set_num_threads(1)  # as `errata classify` does
    extra = arguments.extra
    duration_s = extra.duration or (8.0 if arguments.quick else 30.0)
    result = Result("stream_latency")
    with tempfile.TemporaryDirectory() as folder:
        capture = arguments.data
        if capture.is_dir():
            capture = Path(folder) / "traffic.pcap"
            write_traffic(arguments.data, capture, rate=extra.rate, duration_s=duration_s)
        flows = read(capture)
        if extra.edition:
            edition = TrafficEdition.load(extra.edition)
        else:
            edition = slowest_edition(
                flows, network_weight=extra.network_weight, config=TrafficConfig()
            )
        served = ServedEdition(edition, "benchmark")
        run(served, capture, replay=None, packets=2_000)  # compiles what is compiled
        own = run(served, capture, replay=1.0)
        fast = run(served, capture, replay=None)
        flood = run(served, capture, replay=FLOOD_SPEED)
    result.ours = {
        "p50_ms": own["p50_ms"],
        "p99_ms": own["p99_ms"],
        "flows_per_s": fast["flows_per_s"],
        "shed": own["shed"],
    }
    result.details = {
        "own_speed": own,
        "as_fast_as_possible": fast,
        "flood": flood,
        "packets_a_flow": float(np.minimum(flows.flow["kept"], PACKETS).mean()),
    }
    result.print()


def run(
    served: ServedEdition, capture: Path, *, replay: float | None, packets: int | None = None
) -> dict[str, Any]:
    """Classify a capture; `packets` stops early."""
    latency_ms: list[float] = []
    began, cpu_began = time.perf_counter(), time.process_time()
    with open_source(capture=capture, replay=replay) as source:
        classifier = StreamClassifier(served, clock=source.clock)

        def enough() -> bool:
            return packets is not None and classifier.meter.outcomes.total() >= packets

        for verdicts in classify(source, classifier, stop=enough):
            if source.clock is not None:
                latency_ms += [
                    source.clock.age_ns(verdict.time_ns) / 1e6
                    for verdict in verdicts
                    if verdict.reason is not Reason.FLOW_END
                ]
    seconds = time.perf_counter() - began
    counts = classifier.counts
    found: dict[str, Any] = {
        "seconds": seconds,
        "cpu_share": (time.process_time() - cpu_began) / seconds,
        "flows": counts.flows,
        "flows_per_s": counts.flows / seconds,
        "packets_per_s": classifier.meter.outcomes.total() / seconds,
        "verdicts": sum(counts.verdicts.values()),
        "shed": sum(counts.shed.values()),
        "shed_by_reason": {str(reason): n for reason, n in counts.shed.items() if n},
    }
    if latency_ms:
        p50, p99, p999 = np.quantile(latency_ms, [0.5, 0.99, 0.999])
        found |= {"p50_ms": p50, "p99_ms": p99, "p99.9_ms": p999, "max_ms": max(latency_ms)}
    return found


def read(capture: Path) -> FlowBatch:
    """The capture's flows."""
    with open_capture(capture) as packets:
        found = list(read_flows(packets, FlowMeter()))
    if not found:
        sys.exit(f"no flow in {capture}")
    return FlowBatch.concatenate(found)


def slowest_edition(
    flows: FlowBatch, *, network_weight: float, config: TrafficConfig
) -> TrafficEdition:
    """The shape that ships, never sure of anything; the labels are drawn at random."""
    torch.manual_seed(0)
    network = build_network(
        EmbeddingConfig(packets=PACKETS, fields=len(HEADER_FIELDS)),
        config.network.encoder,
        CLASSES,
    )
    rng = np.random.default_rng(0)
    chosen = flows[rng.permutation(len(flows))[:2_000]]
    known = LabelledPart(
        chosen, rng.integers(0, CLASSES, len(chosen)), np.zeros(len(chosen), np.int32)
    )
    shape: dict[str, Any] = {
        "tier": Tier.T1, "classes": CLASSES, "seed": 0, "threads": 1, "reporter": Silent(),
    }  # fmt: skip
    tree = train_tree(known, None, config.tree, **shape).booster()
    forest = train_forest(known, config.forest, **shape)
    decision = Decision(network_weight=network_weight, forest_share=0.5, unknown_below=0.1)
    classes = tuple(f"class {k}" for k in range(CLASSES))
    keys = KeySpace.fit(read_network(network.eval(), chosen, Tier.T1)[1])
    return TrafficEdition(classes, Tier.T1, network, tree, decision, keys, forest)


Conversation = tuple[NDArray[np.int64], list[bytes], NDArray[np.int64]]


def write_traffic(data: Path, file: Path, *, rate: float, duration_s: float) -> None:
    """A capture of `duration_s` in which conversations of the folder begin `rate` times a second,
    at random, in the order of a shuffled deck; each keeps its own gaps between packets."""
    rng = np.random.default_rng(0)
    deck = [found for path in sorted(data.iterdir()) for found in conversations(path)]
    if not deck:
        sys.exit(f"no Ethernet capture with flows in {data}")
    begins = np.cumsum(rng.exponential(1 / rate, round(rate * duration_s * 2)))
    begins = begins[begins < duration_s]
    order = np.concatenate(
        [rng.permutation(len(deck)) for _ in range(-(-len(begins) // len(deck)))]
    )
    records: list[tuple[int, bytes]] = []
    for number, begin_s in enumerate(begins):
        times, packets, network = deck[order[number]]
        at = round(begin_s * 1e9) + times - times[0]
        for time_ns, packet, offset in zip(at.tolist(), packets, network.tolist(), strict=True):
            if time_ns < duration_s * 1e9:
                records.append((time_ns, renamed(packet, offset, number // len(deck))))
    records.sort(key=lambda record: record[0])
    with file.open("wb") as out:
        out.write(b"\x4d\x3c\xb2\xa1" + PCAP_HEADER[4:])  # nanoseconds
        for time_ns, packet in records:
            seconds, rest = divmod(1_700_000_000_000_000_000 + time_ns, 1_000_000_000)
            head = np.array([seconds, rest, len(packet), len(packet)], "<u4").tobytes()
            out.write(head + packet)


def conversations(path: Path) -> list[Conversation]:
    """Times, packets and where their IP header begins, of each 5-tuple of an Ethernet capture."""
    found: dict[tuple[Any, ...], list[tuple[PacketBatch, int, int]]] = defaultdict(list)
    try:
        with open_capture(path) as capture:
            for batch in capture:
                decoded = PacketDecoder().decode(batch)
                for i in np.flatnonzero(
                    (decoded["outcome"] == Outcome.FLOW) & (batch.link_type == 1)
                ).tolist():
                    p = decoded[i]
                    ends = sorted(
                        [
                            (int(p["src_hi"]), int(p["src_lo"]), int(p["src_port"])),
                            (int(p["dst_hi"]), int(p["dst_lo"]), int(p["dst_port"])),
                        ]
                    )
                    key = (*ends, int(p["protocol"]))
                    found[key].append((batch, i, int(p["network_offset"])))
    except (NotACaptureError, OSError):
        return []
    return [
        (
            np.array([batch.timestamp_ns[i] for batch, i, _ in packets], np.int64),
            [batch.packet(i) for batch, i, _ in packets],
            np.array([offset for _, _, offset in packets], np.int64),
        )
        for packets in found.values()
    ]


def renamed(packet: bytes, network: int, number: int) -> bytes:
    """The packet with both hosts' addresses changed, when a conversation is played again."""
    if not number:
        return packet
    changed = bytearray(packet)
    version = changed[network] >> 4
    # A byte in the middle of each address.
    for offset in (13, 17) if version == 4 else (12, 28):
        changed[network + offset] ^= number & 0xFF
    return bytes(changed)


if __name__ == "__main__":
    main()
