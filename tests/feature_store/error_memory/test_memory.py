import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.error_memory import ErrorBatch, ErrorMemory, KeySpace, MemoryPolicy
from feature_store.error_memory.mixture import log_losses
from feature_store.error_memory.reference import ReferenceMemory

KERNELS = [{"beta": 5.0, "half_life": 20.0}, {"beta": 50.0, "half_life": 200.0, "gamma": 0.0}]
SKETCHES = [
    {"bits": 3, "tables": 2, "half_life": 30.0, "gamma": 0.5},
    {"bits": 4, "tables": 3, "gamma": 0.0},
]


def stream(rng, n, *, d=4, classes=3):
    keys = (rng.standard_normal((n, d)) / np.sqrt(d)).astype(np.float32)
    if classes == 1:
        return keys, rng.integers(0, 2, (n, 1)).astype(np.float32), rng.random((n, 1), np.float32)
    predictions = rng.dirichlet(np.ones(classes), n).astype(np.float32)
    return keys, np.eye(classes, dtype=np.float32)[rng.integers(0, classes, n)], predictions


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    classes=st.sampled_from([1, 3]),
    kernels=st.sampled_from([[], KERNELS]),
    sketches=st.sampled_from([[], SKETCHES]),
    contexts=st.booleans(),
    gate=st.sampled_from([None, 50.0]),
    probes=st.integers(1, 3),
)
def test_the_compiled_memory_agrees_with_its_reference(
    seed, classes, kernels, sketches, contexts, gate, probes
):
    policy = MemoryPolicy.model_validate(
        {
            "kernels": kernels,
            "sketches": sketches,
            "contexts": contexts,
            "gate_half_life": gate,
            "probes": probes,
            "capacity": 64,
            "slots": 8,
            "bits": 4,
            "seed": seed,
        }
    )
    rng = np.random.default_rng(seed)
    memory = ErrorMemory(policy, d=4, n_classes=classes)
    reference = ReferenceMemory(policy, 4, classes)
    for _ in range(3):
        keys, labels, predictions = stream(rng, 30, classes=classes)
        reading = memory.read(keys, predictions)
        for i in range(0, 30, 7):
            corrected, estimates = reference.read(keys[i], predictions[i])
            np.testing.assert_allclose(reading.estimates[i], estimates, atol=2e-5)
            np.testing.assert_allclose(reading.corrected[i], corrected, atol=5e-5)
        batch = ErrorBatch.of(
            keys,
            labels,
            predictions,
            losses=reading.losses(labels),
            contexts=reading.contexts,
            weights=rng.uniform(0.5, 2, 30).astype(np.float32),
        )
        memory.write(batch)
        reference.write(batch)


def policy(**changes):
    values = {"kernels": [{"beta": 20.0, "half_life": 1000.0}], "capacity": 1024, "slots": 16}
    return MemoryPolicy.model_validate(values | changes)


def learn(memory, keys, labels, predictions, **columns):
    """Predict, then learn."""
    reading = memory.read(keys, predictions)
    losses, contexts = reading.losses(labels), reading.contexts
    memory.write(
        ErrorBatch.of(keys, labels, predictions, losses=losses, contexts=contexts, **columns)
    )
    return reading


def test_an_empty_memory_changes_nothing():
    keys, _, predictions = stream(np.random.default_rng(0), 5)
    reading = ErrorMemory(policy(), d=4, n_classes=3).read(keys, predictions)
    np.testing.assert_array_equal(reading.corrected, predictions)


# In a process of its own: here other tests have compiled everything.
WARM = """
import numpy as np
from feature_store.error_memory import ErrorBatch, ErrorMemory, MemoryPolicy, influence, passes

names = "read_neighbours read_sketch mix count_moved write_neighbours write_to_sketch learn_weights"
kernels = [getattr(passes, name) for name in names.split()] + [influence.count_heard]
signatures = lambda: [len(each.signatures) for each in kernels]
rules = {"kernels": [{"beta": 10, "half_life": 100}], "sketches": [{"bits": 8}]}
memory = ErrorMemory(MemoryPolicy.model_validate(rules), d=4, n_classes=3)
memory.warm_up()
warm = signatures()
assert min(warm) == 1, warm
keys, labels = np.random.default_rng(0).random((5, 4), np.float32), np.eye(3, dtype=np.float32)
labels = labels[[0, 1, 2, 0, 1]]
for _ in range(2):
    losses = memory.read(keys, labels).losses(labels)
    memory.write(ErrorBatch.of(keys, labels, labels, losses=losses))
memory.heard(keys)
assert signatures() == warm, signatures()
"""


def test_no_request_waits_for_a_compiler():
    subprocess.run([sys.executable, "-c", WARM], check=True)


def test_a_distant_neighbourhood_changes_nothing():
    memory = ErrorMemory(policy(), d=4, n_classes=3)
    keys, labels, predictions = stream(np.random.default_rng(0), 50)
    memory.write(ErrorBatch.of(keys, labels, predictions))
    np.testing.assert_allclose(
        memory.read(keys + 10, predictions).corrected, predictions, atol=1e-6
    )


@settings(deadline=None, max_examples=20)
@given(distance=st.floats(0, 1), age=st.integers(24_000, 30_000))
def test_an_entry_that_has_all_but_faded_changes_nothing(distance, age):
    rules = policy(kernels=[{"beta": 16.0, "half_life": 200.0, "gamma": gamma} for gamma in (0, 1)])
    memory = ErrorMemory(rules, d=4, n_classes=2)
    old = np.array([[1, 1, 1, 1]], np.float32) / 2
    wrong, truth = np.array([[0.9, 0.1]], np.float32), np.array([[0.0, 1.0]], np.float32)
    memory.write(ErrorBatch.of(old, truth, wrong))
    others = -np.repeat(old, age, axis=0)
    memory.write(ErrorBatch.of(others, np.repeat(truth, age, 0), np.repeat(wrong, age, 0)))
    near = old + np.array([[distance, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(memory.read(near, wrong).corrected, wrong, atol=1e-6)


def test_a_repeated_mistake_is_corrected_at_once():
    memory = ErrorMemory(policy(), d=4, n_classes=2)
    key = np.ones((1, 4), np.float32) / 2
    wrong, truth = np.array([[0.9, 0.1]], np.float32), np.array([[0.0, 1.0]], np.float32)
    for _ in range(3):
        learn(memory, key, truth, wrong)
    assert memory.read(key, wrong).corrected[0, 1] > 0.7


def test_the_gate_closes_while_the_memory_is_worse_than_the_model():
    memory = ErrorMemory(
        policy(gate_half_life=20, learning_rate=0.0, base_prior=0.01), d=4, n_classes=2
    )
    rng = np.random.default_rng(0)
    key = np.zeros((1, 4), np.float32)
    # What the memory knows is always the opposite of what comes next; the model says it right.
    for step in range(40):
        truth = np.eye(2, dtype=np.float32)[[step % 2]]
        right = np.clip(truth, 0.05, 0.95)
        learn(memory, key, truth, right.astype(np.float32))
    del rng
    reading = memory.read(key, np.array([[0.5, 0.5]], np.float32))
    assert not reading.gate_open
    np.testing.assert_array_equal(reading.corrected, [[0.5, 0.5]])


def test_corrections_are_probabilities():
    rng = np.random.default_rng(1)
    memory = ErrorMemory(policy(sketches=SKETCHES), d=4, n_classes=3)
    for _ in range(5):
        learn(memory, *stream(rng, 60))
    keys, _, predictions = stream(rng, 60)
    corrected = memory.read(keys, predictions).corrected
    np.testing.assert_allclose(corrected.sum(1), 1, atol=1e-5)
    assert corrected.min() >= 0


def test_a_class_that_the_model_lacks_is_named_and_the_others_are_not_hurt():
    rng = np.random.default_rng(0)
    memory = ErrorMemory(policy(contexts=True), d=8, n_classes=3, known_classes=2)
    centres = np.eye(3, 8, dtype=np.float32)

    def flows(label, n):
        keys = centres[label] + 0.05 * rng.standard_normal((n, 8)).astype(np.float32)
        known = {0: [0.9, 0.1, 0], 1: [0.1, 0.9, 0], 2: [0.6, 0.4, 0]}[label]
        return (
            keys.astype(np.float32),
            np.eye(3, dtype=np.float32)[[label] * n],
            np.array([known] * n, np.float32),
        )

    for label in (0, 1, 2):
        learn(memory, *flows(label, 20))
    for label in (0, 1, 2):
        keys, _, predictions = flows(label, 50)
        assert (memory.read(keys, predictions).corrected.argmax(1) == label).all()


def test_one_source_cannot_outvote_the_others():
    key = np.zeros((1, 4), np.float32)
    truth, lie = np.eye(2, dtype=np.float32)
    unsure = np.array([[0.5, 0.5]], np.float32)
    fair = ErrorMemory(policy(source_slots=0.25, slots=8), d=4, n_classes=2)
    for number in range(6):
        source = np.array([number], np.uint64)
        fair.write(ErrorBatch.of(key, truth[None], unsure, sources=source))
    flood = np.full(500, 99, np.uint64)
    many = np.repeat(key, 500, 0)
    fair.write(
        ErrorBatch.of(many, np.tile(lie, (500, 1)), np.repeat(unsure, 500, 0), sources=flood)
    )
    assert fair.read(key, unsure).corrected[0, 0] > 0.5


def test_a_flood_from_one_source_loses_its_weight():
    memory = ErrorMemory(policy(source_share=0.05), d=4, n_classes=3)
    keys, labels, predictions = stream(np.random.default_rng(0), 2000)
    sources = np.zeros(2000, np.uint64)
    memory.write(ErrorBatch.of(keys, labels, predictions, sources=sources))
    assert memory.stats().rejected > 1000


def test_entries_of_another_width_are_refused():
    memory = ErrorMemory(policy(), d=4, n_classes=3)
    with pytest.raises(ValueError, match="width 5"):
        memory.write(ErrorBatch.of(np.zeros((1, 5)), np.zeros((1, 3)), np.zeros((1, 3))))


def test_how_a_stream_is_cut_into_batches_does_not_matter():
    keys, labels, predictions = stream(np.random.default_rng(0), 600)
    whole, parts = (ErrorMemory(policy(sketches=SKETCHES), d=4, n_classes=3) for _ in range(2))
    batch = ErrorBatch.of(keys, labels, predictions)
    whole.write(batch)
    for start in range(0, 600, 37):
        parts.write(batch[start : start + 37])
    one, other = whole.read(keys, predictions), parts.read(keys, predictions)
    np.testing.assert_array_equal(one.corrected, other.corrected)


def test_log_loss_of_a_score_and_of_classes():
    np.testing.assert_allclose(
        log_losses(np.array([[0.25]], np.float32), np.array([[1.0]], np.float32)), [np.log(4)]
    )
    two = log_losses(np.array([[0.25, 0.75]], np.float32), np.array([[1.0, 0.0]], np.float32))
    np.testing.assert_allclose(two, [np.log(4)], rtol=1e-6)


def test_scaled_keys_have_unit_mean_square():
    keys = np.random.default_rng(0).normal(3, 5, (1000, 6)).astype(np.float32)
    keys[:, 2] = 7.0
    scaled = KeySpace.fit(keys)(keys)
    assert (scaled**2).sum(1).mean() == pytest.approx(1, rel=1e-3)
    assert not scaled[:, 2].any()
