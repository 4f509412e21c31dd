import json
import re
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from torch import nn

from feature_store.error_memory import named_policy
from pipelines.memory import recommender as recommenders
from pipelines.memory import traffic
from pipelines.memory.evaluation import ARMS, evaluate
from pipelines.memory.report import table, to_json, write_html
from pipelines.memory.subject import Subject
from pipelines.memory.tuning import tune

from .test_streams import stream_of


def subject_of(stream, **changes):
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            self.map = nn.Linear(stream.inputs.shape[1], stream.n_classes)

        def forward(self, inputs):
            return self.map(inputs)

    timed = replace(stream, time_s=np.arange(len(stream), dtype=np.float64))
    values = {
        "name": "test",
        "stream": timed,
        "classes": ("a", "b"),
        "validation": len(stream) // 4,
        "network": Frozen,
        "retrained": lambda _: None,
    }
    return Subject(**(values | changes))


def figures(found):
    return {arm.name: arm.total for arm in found.arms}


def test_on_a_drift_memory_is_worth_more_than_nothing_and_the_report_shows_it(tmp_path):
    found = evaluate(
        subject_of(stream_of(4_000, drift=True)),
        delay=128,
        arms=("base", "memory"),
        policy=named_policy("ring"),
    )
    f1 = figures(found)
    assert f1["memory"]["macro_f1"] > f1["base"]["macro_f1"] + 0.2
    assert found.arms[1].gain.lower > 0.1
    told = to_json(found)
    assert len(told["windows_begin"]) == len(told["arms"]["memory"]["windows"]["ece"]) == 10
    json.dumps(told)
    write_html(tmp_path / "m.html", found, title="Memory")
    page = (tmp_path / "m.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="http', page)
    assert table(found).row_count == 2


def test_a_retrained_model_speaks_from_its_period_on_and_its_memory_begins_with_what_is_known():
    stream = stream_of(4_000, drift=True)
    right = np.clip(stream.labels, 0.1, 0.9)
    asked = []

    def retrained(known):
        asked.append(known)
        return replace(subject.stream, predictions=right.astype(np.float32))

    subject = subject_of(stream, retrained=retrained)
    found = evaluate(
        subject,
        delay=256,
        arms=("base", "retrain", "retrain+memory"),
        policy=named_policy("mixture"),
        retrain_every_s=2_000.0,
    )
    assert asked == [744, 2_744]  # a delay's worth of labels is not known yet
    assert figures(found)["retrain"]["macro_f1"] == 1.0
    assert figures(found)["retrain+memory"]["macro_f1"] > 0.99


def test_a_stream_that_is_too_short_says_what_to_do():
    with pytest.raises(ValueError, match="a smaller --delay"):
        evaluate(subject_of(stream_of(600, drift=False)), delay=256)


def test_scores_are_judged_by_their_order_not_by_their_level():
    """The level of all scores is wrong: a memory mends the log loss, and the order is untouched."""
    stream = stream_of(4_000, drift=False)
    rng = np.random.default_rng(1)
    p = (0.2 + 0.6 * rng.random((4_000, 1))).astype(np.float32)
    labels = (rng.random((4_000, 1)) < p).astype(np.float32)
    level = replace(stream, predictions=p / 4, labels=labels)
    policy = named_policy("mixture").model_copy(update={"gate_half_life": None})
    tuning = tune(level, delays=(256,), policies=[policy])
    assert tuning.best.log_loss.lower > 0
    assert not tuning.policy.enabled


def test_a_published_recommender_sees_what_its_training_did_not(recommender):
    dataset, edition, manifest = recommender
    subject = recommenders.subject(dataset, edition, manifest, negatives="uniform")
    assert subject.notes["seen in training"].startswith("no")
    stream = subject.stream
    n = int(0.3 * dataset.interactions.height)
    assert abs(len(stream) / 2 - n) < 20
    assert stream.labels.mean() == 0.5
    assert (np.diff(stream.time_s) >= 0).all()
    found = evaluate(subject, delay=32, retrain_every_s=6 * 3600, policy=named_policy("off"))
    assert [arm.name for arm in found.arms] == list(ARMS)
    base = figures(found)["base"]
    assert base["auc"] > 0.7
    assert figures(found)["memory"] == base
    assert figures(found)["retrain"] != base
    assert figures(found)["incremental"]["auc"] > 0.6


def test_the_begin_can_be_named_and_ratings_say_no(recommender):
    dataset, edition, manifest = recommender
    since = dataset.interactions["timestamp"].quantile(0.8)
    import polars as pl

    rated = replace(
        dataset,
        interactions=dataset.interactions.with_columns(
            type=pl.lit("rating"), weight=(pl.int_range(pl.len()) % 5 + 1).cast(pl.Float32)
        ),
    )
    subject = recommenders.subject(rated, edition, manifest, since=since)
    assert subject.notes["negatives"] == "ratings below 4"
    assert subject.stream.time_s.min() >= since.timestamp()
    assert subject.notes["seen in training"].startswith("perhaps")
    with pytest.raises(ValueError, match="earlier --since"):
        recommenders.subject(dataset, edition, manifest, since=datetime(2999, 1, 1, tzinfo=UTC))


def test_a_published_classifier_sees_what_its_split_held_out(classifier):
    data, edition, manifest = classifier
    subject = traffic.subject(data, edition, manifest)
    assert subject.notes["seen in training"].startswith("no")
    assert subject.classes == ("chat", "lookup", "video")
    found = evaluate(
        subject,
        delay=4,
        arms=("base", "memory", "incremental", "retrain"),
        retrain_every_s=3_600.0,
        policy=named_policy("off"),
    )
    assert set(found.metrics) == {"macro_f1", "log_loss", "ece"}
    assert figures(found)["base"]["macro_f1"] > 0.5
    assert figures(found)["retrain"]["macro_f1"] > 0.5


def test_a_class_that_the_version_lacks_has_a_column(classifier):
    data, edition, manifest = classifier
    renamed = replace(data, classes=("chat", "lookup", "zoom"))
    subject = traffic.subject(renamed, edition, manifest)
    assert subject.classes == ("chat", "lookup", "video", "zoom")
    assert subject.notes["classes new to the version"] == "zoom"
    assert (subject.stream.predictions[:, 3] == 0).all()


def test_tuning_leaves_what_one_source_may_move():
    guards = named_policy("ring").model_copy(
        update={"source_share": 0.05, "source_slots": 0.25, "probation": 20.0}
    )
    found = tune(
        stream_of(2_000, drift=True), delays=(128,), policies=[named_policy("ring")], guards=guards
    )
    assert found.policy == guards
