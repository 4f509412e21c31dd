"""Packets and flows a second, from a capture file to finished flow features, on one core.

    python -m benchmarks.packets [--quick] [--data DIR] [--baseline-python PYTHON]

Ours, NFStream and a plain dpkt loop read the same file, one after the other in each repetition,
each in a process of its own that is pinned to one core; the figure is the median. The file is all
Ethernet captures of DIR (default: $ERRATA_DATA/traffic/ndpi) behind each other, repeated with later
times until it is long enough. All three use the same timeouts and keep the sizes, directions and
times of each flow's first 20 packets; ours also computes tier T1.

The last line is one JSON object. A baseline that PYTHON cannot import is named there as missing.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IDLE_S, ACTIVE_S, KEPT_PACKETS = 120, 1800, 20
CONTENDERS = ("ours", "nfstream", "dpkt")


def main() -> None:
    """Run the benchmark, or one contender of it."""
    if sys.argv[1:2] == ["--contender"]:
        print(json.dumps(run_contender(*sys.argv[2:4])))
        return
    # Only here: a contender's interpreter need not have what the harness imports.
    from benchmarks.harness import Result, parse

    options = {
        "--baseline-python": {"default": sys.executable, "help": "one that has nfstream and dpkt"}
    }
    arguments = parse(__doc__, data="traffic/ndpi", seeds=1, options=options)
    result = Result("packets")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "packets.pcap"
        packets = write_input(
            arguments.data, file, packets=200_000 if arguments.quick else 1_000_000
        )
        if not packets:
            sys.exit(f"no Ethernet captures in {arguments.data}")
        repetitions = 3 if arguments.quick else 5
        runs = repeat(file, repetitions, arguments.extra.baseline_python)
    result.ours = summary(runs["ours"])
    result.baselines = {name: summary(runs[name]) for name in CONTENDERS if name != "ours"}
    result.details = {"packets": packets, "repetitions": repetitions, "cores_used": 1}
    result.print()


def repeat(file: Path, repetitions: int, baseline_python: str) -> dict[str, list[dict[str, Any]]]:
    """Every contender's runs, alternating; the order turns, so that none is always first."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTENDERS}
    for repetition in range(repetitions):
        turn = repetition % len(CONTENDERS)
        for name in CONTENDERS[turn:] + CONTENDERS[:turn]:
            python = sys.executable if name == "ours" else baseline_python
            run = start_contender(python, name, file)
            runs[name].append(run)
            print(f"{repetition + 1}/{repetitions} {name}: {run}", file=sys.stderr)
    return runs


def start_contender(python: str, name: str, file: Path) -> dict[str, Any]:
    """One run in a process of its own, with one thread on one core."""
    root = Path(__file__).parent.parent
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    done = subprocess.run(
        [python, __file__, "--contender", name, str(file)],
        env={**os.environ, **one, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        reason = done.stderr.strip().splitlines() or ["no output"]
        raise RuntimeError(f"{name} failed: {reason[-1]}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the runs."""
    if "missing" in runs[0]:
        return runs[0]
    median = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    return {
        "packets_per_s": round(median["packets"] / median["seconds"]),
        "flows_per_s": round(median["flows"] / median["seconds"]),
        "flows": round(median["flows"]),
        "warmup_s": round(median["warmup_s"], 2),
        "peak_mb": median["peak_mb"],
    }


def run_contender(name: str, file: str) -> dict[str, Any]:
    """Pin this process to one core, warm up, read the file and measure."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    contenders: dict[str, Callable[[], Callable[[str], tuple[int, int]]]] = {
        "ours": ours,
        "nfstream": nfstream,
        "dpkt": plain_dpkt,
    }
    began = time.perf_counter()
    try:
        read = contenders[name]()
    except ImportError as error:
        return {"missing": f"{name} is not installed here: {error}"}
    warm = time.perf_counter()
    packets, flows = read(file)
    seconds = time.perf_counter() - warm
    return {
        "packets": packets,
        "flows": flows,
        "seconds": round(seconds, 4),
        "warmup_s": round(warm - began, 3),
        "peak_mb": peak_mb(),
    }


def peak_mb() -> int:
    """Largest resident size of this process: unlike `getrusage`, not that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def ours() -> Callable[[str], tuple[int, int]]:
    """The meter, with the features of tier T1."""
    from feature_store.traffic.capture import open_capture
    from feature_store.traffic.features import Tier, flow_features
    from feature_store.traffic.meter import FlowMeter, read_flows

    def read(file: str) -> tuple[int, int]:
        meter, flows = FlowMeter(), 0
        with open_capture(file) as capture:
            for batch in read_flows(capture, meter):
                flows += len(flow_features(batch, Tier.T1).kept)
        return sum(meter.outcomes.values()), flows

    with tempfile.NamedTemporaryFile(suffix=".pcap") as small:
        small.write(PCAP_HEADER + struct.pack("<4I", 0, 0, len(SYN), len(SYN)) + SYN)
        small.flush()
        read(small.name)
    return read


def nfstream() -> Callable[[str], tuple[int, int]]:
    """NFStream without deep inspection."""
    streamer_of = importlib.import_module("nfstream").NFStreamer

    def read(file: str) -> tuple[int, int]:
        streamer = streamer_of(
            source=file,
            idle_timeout=IDLE_S,
            active_timeout=ACTIVE_S,
            n_dissections=0,
            statistical_analysis=False,
            splt_analysis=KEPT_PACKETS,
            n_meters=1,
        )
        packets = flows = 0
        for flow in streamer:
            packets += flow.bidirectional_packets
            flows += 1
        return packets, flows

    return read


def plain_dpkt() -> Callable[[str], tuple[int, int]]:
    """What one writes first: a loop, a dictionary, idle and active timeouts."""
    dpkt = importlib.import_module("dpkt")
    importlib.import_module("dpkt.pcap")

    def read(file: str) -> tuple[int, int]:
        packets, finished = 0, 0
        flows: dict[tuple[Any, ...], list[Any]] = {}
        with Path(file).open("rb") as stream:
            for now, data in dpkt.pcap.Reader(stream):
                packets += 1
                try:
                    ip = dpkt.ethernet.Ethernet(data).data
                except dpkt.Error:
                    continue
                if not isinstance(ip, dpkt.ip.IP | dpkt.ip6.IP6):
                    continue
                transport = ip.data
                source = (ip.src, getattr(transport, "sport", 0))
                target = (ip.dst, getattr(transport, "dport", 0))
                key = (min(source, target), max(source, target), ip.p)
                flow = flows.get(key)
                if flow and (now - flow[1] > IDLE_S or now - flow[0] > ACTIVE_S):
                    finished, flow = finished + 1, None
                if flow is None:
                    flow = flows[key] = [now, now, source, 0, 0, []]
                flow[3] += 1
                flow[4] += len(ip)
                if len(flow[5]) < KEPT_PACKETS:
                    flow[5].append((len(ip), 1 if source == flow[2] else -1, now - flow[1]))
                flow[1] = now
        return packets, finished + len(flows)

    return read


# A TCP SYN from 192.0.2.1 to 192.0.2.2: enough to make every kernel compile.
SYN = bytes.fromhex(
    "000000000001000000000002080045000028000100004006 0000c0000201c0000202"
    "0001000200000000000000005002200000000000"
)
PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1)


def write_input(data: Path, file: Path, *, packets: int) -> int:
    """Write the captures of a folder behind each other, at least `packets` in all, and give how
    many packets there are."""
    blocks, one_pass_us, count = [], 0, 0
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        for times_us, records in read_ethernet(path):
            count += len(times_us)
            blocks.append((one_pass_us, times_us, records))
            one_pass_us += max(max(times_us) - min(times_us), 0) + 1_000_000
    written = 0
    with file.open("wb") as out:
        out.write(PCAP_HEADER)
        repetition_us = 1_000_000_000 * 1_000_000
        while count and written < packets:
            for start_us, times_us, records in blocks:
                shift = repetition_us + start_us - min(times_us)
                for time_us, record in zip(times_us, records, strict=True):
                    out.write(struct.pack("<II", *divmod(time_us + shift, 1_000_000)) + record)
            written += count
            repetition_us += one_pass_us
    return written


def read_ethernet(path: Path) -> list[tuple[list[int], list[bytes]]]:
    """The times and records (lengths and bytes) of one capture, if it is one of Ethernet."""
    from feature_store.traffic.capture import NotACaptureError, open_capture

    times_us: list[int] = []
    records: list[bytes] = []
    try:
        with open_capture(path) as capture:
            for batch in capture:
                for i in range(len(batch)):
                    if batch.link_type[i] == 1:
                        packet = batch.packet(i)
                        times_us.append(int(batch.timestamp_ns[i]) // 1000)
                        records.append(struct.pack("<II", len(packet), batch.length[i]) + packet)
    except NotACaptureError:
        return []
    # Captures whose clock jumps by more than a day would leave the 32 bits of a pcap's seconds.
    if not times_us or max(times_us) - min(times_us) > 86_400_000_000:
        return []
    return [(times_us, records)]


if __name__ == "__main__":
    main()
