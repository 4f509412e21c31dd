import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.editions.traffic import trees_pooled
from pipelines.traffic.config import DecisionConfig
from pipelines.traffic.opinions import (
    FOREST_SHARES,
    Opinions,
    choose_forest_share,
    choose_weight,
    settle,
)
from pipelines.traffic.pool import best_rounds
from pipelines.traffic.split import blocks, recordings

from .test_split import labelled_flows


def opinions(*, network_errors: float, tree_errors: float, sure: float = 4.0) -> Opinions:
    """600 flows of three classes in 60 recordings, with independent mistakes of both."""
    rng = np.random.default_rng(0)
    label = np.arange(600) % 3

    def opinion(errors: float) -> np.ndarray:
        wrong = rng.random(600) < errors
        said = np.where(wrong, (label + 1) % 3, label)
        score = rng.normal(0, 0.5, (600, 3))
        score[np.arange(600), said] += sure
        return (score - np.log(np.exp(score).sum(1, keepdims=True))).astype(np.float32)

    return Opinions(opinion(network_errors), opinion(tree_errors), label, np.arange(600) // 10)


def trees(share: float, said: Opinions) -> Opinions:
    """Boosted trees and a forest at a share, whose opinions are `said`'s tree's and network's."""
    joint = trees_pooled(said.log_trees, said.log_network, share)
    return Opinions(joint, joint, said.label, said.recording)


def test_a_network_that_is_right_where_the_tree_is_wrong_has_a_say() -> None:
    choice = choose_weight([opinions(network_errors=0.05, tree_errors=0.3)])
    assert choice.weight > 0.3
    assert choice.gain > choice.standard_error > 0


def test_a_worse_network_has_no_say() -> None:
    choice = choose_weight([opinions(network_errors=0.5, tree_errors=0.1)])
    assert choice.weight == 0


def test_a_network_that_says_what_the_tree_says_has_no_say() -> None:
    said = opinions(network_errors=0.2, tree_errors=0.2)
    same = Opinions(said.log_trees, said.log_trees, said.label, said.recording)
    assert choose_weight([same]).weight == 0


def shared(said: Opinions) -> float:
    return choose_forest_share({share: trees(share, said) for share in FOREST_SHARES})


def test_trees_of_two_kinds_share_the_say() -> None:
    assert shared(opinions(network_errors=0.2, tree_errors=0.25)) == 0.5
    assert shared(opinions(network_errors=0.3, tree_errors=0.25)) == 0.5


def test_trees_that_are_better_alone_have_all_of_the_say() -> None:
    assert shared(opinions(network_errors=0.7, tree_errors=0.1)) == 0
    assert shared(opinions(network_errors=0.1, tree_errors=0.7)) == 1


def test_nothing_held_out_gives_the_forest_no_share() -> None:
    none = Opinions(*[np.zeros((0, 3), np.float32)] * 2, *[np.zeros(0, np.int64)] * 2)
    assert choose_forest_share(dict.fromkeys(FOREST_SHARES, none)) == 0


def test_overconfident_opinions_are_cooled() -> None:
    said = opinions(network_errors=0.3, tree_errors=0.3, sure=9.0)
    decision = settle(said, 0.0, DecisionConfig(rejected_share=0.1))
    assert decision.temperature > 1.5
    assert 0 < decision.unknown_below < 1


def test_what_is_surer_than_the_rejected_share_is_not_unknown() -> None:
    said = opinions(network_errors=0.0, tree_errors=0.0, sure=9.0)
    assert settle(said, 0.0, DecisionConfig(rejected_share=0.1)).unknown_below == 0.9


def test_rounds_are_where_the_smoothed_curve_is_highest() -> None:
    curve = np.concatenate([np.linspace(0.3, 0.6, 50), np.linspace(0.6, 0.5, 50)])
    curve[10] = 0.99  # one lucky round
    assert best_rounds(curve) == pytest.approx(50, abs=10)
    assert 1 <= best_rounds(np.array([0.2])) <= 1


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 4), st.floats(0, 5_000), st.integers(0, 30)),
        min_size=1,
        max_size=80,
    )
)
@settings(max_examples=40, deadline=None)
def test_no_conversation_is_on_both_sides_of_a_block(
    rows: list[tuple[int, int, float, int]],
) -> None:
    labels, captures, times, ports = (list(column) for column in zip(*rows, strict=True))
    data = labelled_flows(times, labels, captures, ports)
    for training, held in blocks(data):
        assert not set(training) & set(held)
        where = data.flows.flow["src_port"], data.capture
        here = {tuple(int(each[row]) for each in where) for row in training}
        assert not here & {tuple(int(each[row]) for each in where) for row in held}


def test_blocks_of_many_recordings_never_cut_one() -> None:
    data = labelled_flows([1_000.0 * r + k for r in range(9) for k in range(10)], [0] * 90)
    recording = recordings(data)
    seen = []
    for training, held in blocks(data):
        assert set(recording[training]).isdisjoint(recording[held])
        seen += held.tolist()
    assert sorted(seen) == list(range(90))
