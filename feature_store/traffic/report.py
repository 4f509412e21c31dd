"""A capture's flows as lines of text or JSON, for people and for pipes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import numpy as np

from feature_store.traffic.capture.packet_batch import PacketBatch
from feature_store.traffic.flows.flow import EndReason, FlowBatch
from feature_store.traffic.meter import FlowMeter, read_flows
from feature_store.traffic.packets.packet import address_text

PROTOCOL_NAMES = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp"}


def flow_lines(
    packets: Iterable[PacketBatch],
    *,
    as_json: bool = False,
    meter: FlowMeter | None = None,
) -> Iterator[str]:
    """One line for each finished flow, and a last one that counts packets by outcome.

    Args:
        packets: an open capture; if it has `damage`, the last line reports it.
        as_json: every line is a JSON object; the last one has the key `packets`.
    """
    meter = meter or FlowMeter()
    flows = 0
    for batch in read_flows(packets, meter):
        flows += len(batch)
        for flow in describe_flows(batch):
            yield json.dumps(flow) if as_json else flow_text(flow)
    totals: dict[str, int | dict[str, int]] = {
        "packets": sum(meter.outcomes.values()),
        "flows": flows,
        "ended": {reason.name.lower(): count for reason, count in meter.table.ended.items()},
        "outcomes": {outcome.name.lower(): count for outcome, count in meter.outcomes.items()},
        "damage": {str(reason): count for reason, count in getattr(packets, "damage", {}).items()},
    }
    yield json.dumps(totals) if as_json else totals_text(totals)


def describe_flows(batch: FlowBatch) -> Iterator[dict[str, str | int | float]]:
    """Each flow's key, times and totals; times are seconds since 1970."""
    for flow in batch.flow:
        yield {
            "source": address_text(flow["src_hi"], flow["src_lo"]),
            "source_port": int(flow["src_port"]),
            "destination": address_text(flow["dst_hi"], flow["dst_lo"]),
            "destination_port": int(flow["dst_port"]),
            "protocol": protocol_name(flow),
            "start": int(flow["first_ns"]) / 1e9,
            "end": int(flow["last_ns"]) / 1e9,
            "packets_out": int(flow["packets"][0]),
            "packets_in": int(flow["packets"][1]),
            "bytes_out": int(flow["bytes"][0]),
            "bytes_in": int(flow["bytes"][1]),
            "end_reason": EndReason(int(flow["end_reason"])).name.lower(),
        }


def protocol_name(flow: np.void) -> str:
    """`tcp`, `udp`, ..., or the number that IANA gave it."""
    number = int(flow["protocol"])
    return PROTOCOL_NAMES.get(number, str(number))


def flow_text(flow: dict[str, str | int | float]) -> str:
    """One flow for the eye."""
    return (
        "{protocol:5} {source}:{source_port} > {destination}:{destination_port}  "
        "{packets_out}+{packets_in} packets  {bytes_out}+{bytes_in} bytes  "
    ).format(**flow) + f"{float(flow['end']) - float(flow['start']):.3f} s  {flow['end_reason']}"


def totals_text(totals: dict[str, int | dict[str, int]]) -> str:
    """The last line for the eye."""
    parts = [f"{totals['packets']} packets, {totals['flows']} flows"]
    for key in ("ended", "outcomes", "damage"):
        counts = totals[key]
        if isinstance(counts, dict) and counts:
            parts.append(f"{key}: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    return "; ".join(parts)
