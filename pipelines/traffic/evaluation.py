"""The honest protocol: every tier, every baseline, on recordings that training never saw.

After The Sweet Danger of Sugar (SIGCOMM 2025): macro F1 at T0 and T1, T2 to show the leak; paired
intervals; what randomising protected fields costs; calibration; accuracy after each of the first
packets; and how well classes that were never trained on are told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.traffic import TrafficEdition
from feature_store.traffic.features import PROTECTED, Header, Tier
from feature_store.traffic.flows import FlowBatch
from pipelines.progress import Reporter, Silent
from pipelines.traffic.baselines import train_baseline
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.metrics import (
    accuracy,
    calibration_error,
    class_f1,
    confusion_matrix,
    macro_f1,
    paired_interval,
    unknown_detection,
)
from pipelines.traffic.train_network import LabelledPart
from pipelines.traffic.training import Parts, train

FloatArray = NDArray[np.float32]
PORTS = {(Header.TCP, "source port"), (Header.TCP, "destination port"),
         (Header.UDP, "source port"), (Header.UDP, "destination port")}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """One model at one tier on the test flows.

    Attributes:
        ece: expected calibration error.
        gain_ci: 95 % paired bootstrap interval of ours - theirs in macro F1; None for ours.
    """

    macro_f1: float
    accuracy: float
    ece: float
    gain_ci: tuple[float, float] | None = None


@dataclass(frozen=True)
class TrafficEvaluation:
    """What one seed of the protocol found.

    Attributes:
        scores: tier → model → score; ours is "errata", its parts "network" and "tree".
        by_packets: accuracy of verdicts after so many packets (all flows; short ones as they are).
        leak_drop: points of macro F1 that randomising every protected field costs at test time.
        auroc_unknown, fpr95_unknown: telling classes left out of training; None if not measured.
        class_f1: class → F1 of ours at the configured tier.
        confusion: (classes, classes) counts of ours at that tier; rows are the truth.
    """

    classes: tuple[str, ...]
    flows: int
    scores: dict[str, dict[str, Score]]
    by_packets: dict[int, float]
    leak_drop: float
    class_f1: dict[str, float]
    confusion: list[list[int]]
    auroc_unknown: float | None = None
    fpr95_unknown: float | None = None
    split: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def evaluate(
    edition: TrafficEdition,
    parts: Parts,
    config: TrafficConfig,
    *,
    seed: int,
    tiers: tuple[Tier, ...] | None = None,
    baseline_tiers: tuple[Tier, ...] = (Tier.T0, Tier.T1),
    reporter: Reporter | None = None,
) -> TrafficEvaluation:
    """Measure an edition beside the baselines on the test flows.

    Args:
        edition: trained on `parts` at `config.tier`.
        parts: the split.
        config: the edition's; its evaluation section says what is measured.
        seed: of baselines and of whatever else is drawn.
        tiers: further tiers at which our classifier is trained and scored too; by default none.
        baseline_tiers: where the baselines are trained; the edition's own tier is always one.
        reporter: progress.
    """
    reporter = reporter or Silent()
    classes, test = edition.classes, parts.test
    rng = np.random.default_rng(seed)
    verdicts = edition.classify(test.flows)
    ours = verdicts.probability.argmax(axis=1)
    scores: dict[str, dict[str, Score]] = {edition.tier.value: _own_scores(edition, test)}
    for tier in tiers or ():
        if tier is not edition.tier:
            other = train(parts, classes, config.changed(tier=tier), seed=seed, reporter=reporter)
            scores[tier.value] = _own_scores(other, test)
    wanted = sorted({edition.tier, *baseline_tiers})
    names = [
        (tier, name)
        for tier in wanted
        for name in config.evaluation.baselines
        if tier is edition.tier or name in ("random_forest", "lightgbm")
    ]
    with reporter.bar("baselines", len(names)) as bar:
        for tier, name in names:
            baseline = train_baseline(
                name,
                parts.training,
                parts.validation,
                tier=tier,
                classes=len(classes),
                seed=seed,
                threads=config.threads,
            )
            probability = baseline(test.flows)
            interval = paired_interval(
                test.label,
                ours,
                probability.argmax(axis=1),
                classes=len(classes),
                resamples=config.evaluation.resamples,
                rng=rng,
            )
            scores.setdefault(tier.value, {})[name] = score(
                test.label, probability, gain_ci=interval
            )
            bar.advance(1, f"{name} {tier.value}")
    unknown = _left_out(parts, classes, config, seed=seed, reporter=reporter)
    return TrafficEvaluation(
        classes=classes,
        flows=len(test.flows),
        scores=scores,
        by_packets={
            packets: accuracy(
                test.label, edition.classify(test.flows.cut(packets)).probability.argmax(axis=1)
            )
            for packets in config.evaluation.packets
        },
        leak_drop=leak_drop(edition, test, seed=seed),
        class_f1=dict(
            zip(
                classes,
                class_f1(test.label, ours, classes=len(classes)).round(4).tolist(),
                strict=True,
            )
        ),
        confusion=confusion_matrix(test.label, ours, classes=len(classes)).tolist(),
        auroc_unknown=unknown and unknown[0],
        fpr95_unknown=unknown and unknown[1],
    )


def score(
    label: NDArray[np.int64],
    probability: FloatArray,
    *,
    gain_ci: tuple[float, float] | None = None,
) -> Score:
    """Macro F1, accuracy and calibration of probabilities (n, classes)."""
    found = probability.argmax(axis=1)
    return Score(
        macro_f1=macro_f1(label, found, classes=probability.shape[1]),
        accuracy=accuracy(label, found),
        ece=calibration_error(label, probability),
        gain_ci=gain_ci,
    )


def _own_scores(edition: TrafficEdition, test: LabelledPart) -> dict[str, Score]:
    """Ours, and each of its parts alone."""
    found = {"errata": score(test.label, edition.classify(test.flows).probability)}
    if edition.tree is not None:
        for name, weight in (("network", 1.0), ("tree", 0.0)):
            alone = edition.with_network_weight(weight)
            found[name] = score(test.label, alone.classify(test.flows).probability)
    return found


def leak_drop(edition: TrafficEdition, test: LabelledPart, *, seed: int) -> float:
    """Macro F1 lost, in points, when every protected field of the test flows is random."""
    before = edition.classify(test.flows).probability.argmax(axis=1)
    probed = randomise_protected(test.flows, np.random.default_rng(seed))
    after = edition.classify(probed).probability.argmax(axis=1)
    classes = len(edition.classes)
    return 100 * (
        macro_f1(test.label, before, classes=classes) - macro_f1(test.label, after, classes=classes)
    )


def randomise_protected(flows: FlowBatch, rng: np.random.Generator) -> FlowBatch:
    """Flows whose protected fields are drawn at random, in bytes, 5-tuple and MAC addresses.

    Rounded fields stay within their class; the kinds and lengths of TCP options stay.
    """
    raw = flows.raw.copy()
    for field_ in PROTECTED:
        if field_.rounded:
            continue
        for place in range(raw.shape[1]):
            begin = _header_begin(flows, place, field_.header)
            rows = np.flatnonzero(begin >= 0)
            ends = flows.header_length[rows, place, 0 if field_.header <= Header.IPV6 else 1]
            for offset in range(field_.offset, field_.offset + field_.length):
                if field_.header is Header.TCP and offset >= 20:
                    continue  # options: their structure is kept, see `protect_headers`
                at = begin[rows] + offset
                inside = at < ends
                chosen, columns = rows[inside], at[inside]
                mask = field_.first_mask if offset == field_.offset else 0xFF
                drawn = rng.integers(0, 256, len(chosen), dtype=np.uint8)
                old = raw[chosen, place, columns]
                raw[chosen, place, columns] = (old & (0xFF ^ mask)) | (drawn & mask)
    flow = flows.flow.copy()
    for name in ("src_hi", "src_lo", "dst_hi", "dst_lo", "src_mac", "dst_mac"):
        flow[name] = rng.integers(0, 2**63, len(flow), dtype=np.uint64)
    for name in ("src_port", "dst_port"):
        flow[name] = rng.integers(0, 2**16, len(flow), dtype=np.uint16)
    return FlowBatch(
        flow, flows.size, flows.direction, flows.gap_ns, flows.fields, raw, flows.header_length
    )


def _header_begin(flows: FlowBatch, place: int, header: Header) -> NDArray[np.int64]:
    """(n,) where a header begins in the kept bytes of a packet; -1 where there is none."""
    there = flows.header_length[:, place, 1] > 0
    if header in (Header.IPV4, Header.IPV6):
        version = 4 if header is Header.IPV4 else 6
        return np.where(there & (flows.raw[:, place, 0] >> 4 == version), 0, -1)
    protocols: dict[Header, Callable[[NDArray[np.uint8]], NDArray[np.bool_]]] = {
        Header.TCP: lambda protocol: protocol == 6,
        Header.UDP: lambda protocol: protocol == 17,
        Header.ICMP: lambda protocol: np.isin(protocol, (1, 58)),
        Header.SCTP: lambda protocol: protocol == 132,
    }
    network = flows.header_length[:, place, 0].astype(np.int64)
    return np.where(there & protocols[header](flows.flow["protocol"]), network, -1)


def _left_out(
    parts: Parts, classes: tuple[str, ...], config: TrafficConfig, *, seed: int, reporter: Reporter
) -> tuple[float, float] | None:
    """AUROC and FPR95 of telling left-out classes, from a training without them."""
    count = round(config.evaluation.left_out_share * len(classes))
    if count == 0 or len(classes) - count < 2:
        return None
    left_out = np.random.default_rng(seed).choice(len(classes), count, replace=False)
    kept = np.setdiff1d(np.arange(len(classes)), left_out)
    rows = np.full(len(classes), -1)
    rows[kept] = np.arange(len(kept))

    def without(part: LabelledPart) -> LabelledPart:
        known = np.flatnonzero(rows[part.label] >= 0)
        return LabelledPart(part.flows[known], rows[part.label[known]])

    fewer = Parts(
        without(parts.training),
        without(parts.validation),
        without(parts.test),
        without(parts.training).flows,
    )
    edition = train(
        fewer, tuple(classes[row] for row in kept), config, seed=seed, reporter=reporter
    )
    doubt = -edition.classify(parts.test.flows).probability.max(axis=1).astype(np.float64)
    is_unknown = rows[parts.test.label] < 0
    found = unknown_detection(doubt[~is_unknown], doubt[is_unknown])
    return found.auroc, found.fpr95
