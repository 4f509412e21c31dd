"""The honest protocol: every tier, every baseline, on recordings that training never saw.

After The Sweet Danger of Sugar (SIGCOMM 2025): macro F1 at T0 and T1, T2 to show the leak; paired
intervals; what randomising protected fields costs; calibration; accuracy after each of the first
packets; and how well classes that were never trained on are told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_store.editions.traffic import TrafficEdition
from feature_store.traffic.features import PROTECTED, Header, Tier
from feature_store.traffic.flows import FlowBatch
from pipelines.progress import Reporter, Silent
from pipelines.traffic.baselines import Choices, train_baseline
from pipelines.traffic.config import TrafficConfig
from pipelines.traffic.dataset import LabelledPart
from pipelines.traffic.metrics import (
    accuracy,
    calibration_error,
    class_f1,
    confusion_matrix,
    macro_f1,
    paired_interval,
    unknown_detection,
)
from pipelines.traffic.pool import Pool
from pipelines.traffic.training import Parts, train

FloatArray = NDArray[np.float32]
Classify = Callable[[FlowBatch], FloatArray]
TCP_OPTIONS = 20  # the structure of options is kept; see `protect_headers`


@dataclass(frozen=True)
class Score:
    """One model at one tier on the test flows.

    Attributes:
        ece: expected calibration error.
        capture_vote: accuracy of one verdict per capture and class, by the flows' mean log
            probability.
        leak_drop: points of macro F1 that randomising every protected field costs at test time.
        gain_ci: 95 % paired bootstrap interval of ours - theirs in macro F1; None for ours.
        auroc_unknown, fpr95_unknown: telling flows of classes left out of training; None where it
            was not measured.
    """

    macro_f1: float
    accuracy: float
    ece: float
    capture_vote: float
    leak_drop: float
    gain_ci: tuple[float, float] | None = None
    auroc_unknown: float | None = None
    fpr95_unknown: float | None = None


@dataclass(frozen=True)
class TrafficEvaluation:
    """What one seed of the protocol found.

    Attributes:
        scores: tier → model → score; ours is "errata", its parts "network" and "tree".
        by_packets: accuracy of verdicts after so many packets (all flows; short ones as they are).
        class_f1: class → F1 of ours at the configured tier.
        confusion: (classes, classes) counts of ours at that tier; rows are the truth.
    """

    classes: tuple[str, ...]
    flows: int
    scores: dict[str, dict[str, Score]]
    by_packets: dict[int, float]
    class_f1: dict[str, float]
    confusion: list[list[int]]

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
    choices: Choices | None = None,
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
        choices: the baselines' parameters where an earlier seed chose them.
    """
    reporter = reporter or Silent()
    choices = {} if choices is None else choices
    classes, test = edition.classes, parts.test
    probed = randomise_protected(test.flows, np.random.default_rng(seed))
    ours = edition.classify(test.flows).probability.argmax(axis=1)

    def scored(classify: Classify) -> Score:
        probability = classify(test.flows)
        found = score(test, probability, probability_probed=classify(probed))
        if classify == edition.probability:
            return found
        interval = paired_interval(
            test.label,
            ours,
            probability.argmax(axis=1),
            classes=len(classes),
            resamples=config.evaluation.resamples,
            rng=np.random.default_rng(seed),
        )
        return replace(found, gain_ci=interval)

    scores = {edition.tier.value: {name: scored(each) for name, each in _own(edition).items()}}
    for tier in tiers or ():
        if tier is not edition.tier:
            other = _trained_alike(
                edition, parts, classes, config.changed(tier=tier), seed, reporter
            )
            scores[tier.value] = {name: scored(each) for name, each in _own(other).items()}
            if edition.network_is_idle:
                del scores[tier.value]["network"]
    wanted = [
        (tier, name)
        for tier in sorted({edition.tier, *baseline_tiers})
        for name in config.evaluation.baselines
        if tier is edition.tier or name in ("random_forest", "lightgbm")
    ]
    with reporter.bar("baselines", len(wanted)) as bar:
        for tier, name in wanted:
            baseline = _baseline(name, parts, tier, classes, config, seed, choices)
            scores.setdefault(tier.value, {})[name] = scored(baseline)
            bar.advance(1, f"{name} {tier.value}")
    _add_unknown(scores[edition.tier.value], parts, edition, config, seed, reporter, choices)
    return TrafficEvaluation(
        classes=classes,
        flows=len(test.flows),
        scores=scores,
        by_packets={
            packets: accuracy(test.label, edition.probability(test.flows.cut(packets)).argmax(1))
            for packets in config.evaluation.packets
        },
        class_f1=dict(
            zip(
                classes,
                class_f1(test.label, ours, classes=len(classes)).round(4).tolist(),
                strict=True,
            )
        ),
        confusion=confusion_matrix(test.label, ours, classes=len(classes)).tolist(),
    )


def score(test: LabelledPart, probability: FloatArray, *, probability_probed: FloatArray) -> Score:
    """What probabilities (n, classes) are worth, and those of the probed flows beside them."""
    classes = probability.shape[1]
    found = probability.argmax(axis=1)
    f1 = macro_f1(test.label, found, classes=classes)
    return Score(
        macro_f1=f1,
        accuracy=accuracy(test.label, found),
        ece=calibration_error(test.label, probability),
        capture_vote=capture_vote(test, probability),
        leak_drop=100
        * (f1 - macro_f1(test.label, probability_probed.argmax(axis=1), classes=classes)),
    )


def capture_vote(test: LabelledPart, probability: FloatArray) -> float:
    """Accuracy of one verdict on all flows of a class in a capture."""
    keys = np.stack([test.capture.astype(np.int64), test.label], axis=1)
    groups, rows = np.unique(keys, axis=0, return_inverse=True)
    votes = np.zeros((len(groups), probability.shape[1]))
    np.add.at(votes, rows.ravel(), np.log(np.maximum(probability, 1e-6)))
    return accuracy(groups[:, 1], votes.argmax(axis=1))


def _own(edition: TrafficEdition) -> dict[str, Classify]:
    """Ours, and each of its parts alone."""
    found: dict[str, Classify] = {"errata": edition.probability}
    if edition.tree is not None:
        found["network"] = edition.with_say(network_weight=1, forest_share=0).probability
        found["tree"] = edition.with_say(network_weight=0, forest_share=0).probability
    if edition.forest is not None:
        found["forest"] = edition.with_say(network_weight=0, forest_share=1).probability
    return found


def _trained_alike(
    edition: TrafficEdition,
    parts: Parts,
    classes: tuple[str, ...],
    config: TrafficConfig,
    seed: int,
    reporter: Reporter,
) -> TrafficEdition:
    """Trained on other flows or another tier with an edition's pool; no network without a say."""
    if edition.network_is_idle:
        config = config.with_idle_network()
    return train(
        parts, classes, config, seed=seed, reporter=reporter, pool=Pool.of(edition, config.tree)
    )


def _baseline(
    name: str,
    parts: Parts,
    tier: Tier,
    classes: tuple[str, ...],
    config: TrafficConfig,
    seed: int,
    choices: Choices,
) -> Classify:
    return train_baseline(
        name,
        parts.training,
        parts.validation,
        tier=tier,
        classes=len(classes),
        seed=seed,
        threads=config.threads,
        tree=config.tree,
        choices=choices,
    )


def randomise_protected(flows: FlowBatch, rng: np.random.Generator) -> FlowBatch:
    """Flows whose protected fields are drawn at random, in bytes, 5-tuple and MAC addresses.

    Rounded fields stay within their class; the kinds and lengths of TCP options stay.
    """
    raw = flows.raw.copy()
    for protected in PROTECTED:
        if protected.rounded:
            continue
        for place in range(raw.shape[1]):
            begin = _header_begin(flows, place, protected.header)
            rows = np.flatnonzero(begin >= 0)
            column = 0 if protected.header in (Header.IPV4, Header.IPV6) else 1
            ends = flows.header_length[rows, place, column]
            for offset in range(protected.offset, protected.offset + protected.length):
                if protected.header is Header.TCP and offset >= TCP_OPTIONS:
                    continue
                at = begin[rows] + offset
                inside = at < ends
                chosen, columns = rows[inside], at[inside]
                mask = protected.first_mask if offset == protected.offset else 0xFF
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


def _add_unknown(
    scores: dict[str, Score],
    parts: Parts,
    edition: TrafficEdition,
    config: TrafficConfig,
    seed: int,
    reporter: Reporter,
    choices: Choices,
) -> None:
    """Complete scores with how well each model, trained without some classes, tells these."""
    classes = edition.classes
    count = round(config.evaluation.left_out_share * len(classes))
    if count == 0 or len(classes) - count < 2:
        return
    left_out = np.random.default_rng(seed).choice(len(classes), count, replace=False)
    kept = np.setdiff1d(np.arange(len(classes)), left_out)
    row_of = np.full(len(classes), -1)
    row_of[kept] = np.arange(len(kept))
    unknown = row_of[parts.test.label] < 0

    def without(part: LabelledPart) -> LabelledPart:
        known = np.flatnonzero(row_of[part.label] >= 0)
        return LabelledPart(part.flows[known], row_of[part.label[known]], part.capture[known])

    training = without(parts.training)
    fewer = Parts(training, without(parts.validation), without(parts.test), training.flows)
    names = tuple(classes[row] for row in kept)
    config = config.changed(tier=edition.tier)
    models = _own(_trained_alike(edition, fewer, names, config, seed, reporter))
    if edition.network_is_idle:
        del models["network"]
    for name in config.evaluation.baselines:
        models[name] = _baseline(name, fewer, edition.tier, names, config, seed, choices)
    for model, classify in models.items():
        doubt = -classify(parts.test.flows).max(axis=1).astype(np.float64)
        found = unknown_detection(doubt[~unknown], doubt[unknown])
        scores[model] = replace(scores[model], auroc_unknown=found.auroc, fpr95_unknown=found.fpr95)
