import numpy as np
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.recommender.batches import Hiding, epoch_batches


def histories(seed: int, n_users: int, n_items: int) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    dense = (rng.random((n_users, n_items)) < 0.4) * rng.uniform(0.1, 1, (n_users, n_items))
    return sp.csr_matrix(dense.astype(np.float32))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 999),
    share=st.floats(0.05, 0.95),
    all_targets=st.floats(0, 0.9),
    others=st.floats(0, 0.9),
    batch_size=st.integers(1, 9),
)
def test_what_is_hidden_is_wanted_and_what_is_seen_does_not_compete(
    seed, share, all_targets, others, batch_size
):
    matrix = histories(seed, 8, 10)
    features = np.arange(8, dtype=np.float32)[:, None]
    competing = np.arange(3, 8)
    hiding = Hiding(share=share, all_targets=all_targets, others=others, user_weight=0.5)
    met = set()
    for seen, targets in epoch_batches(
        matrix,
        features,
        competing=competing,
        hiding=hiding,
        batch_size=batch_size,
        rng=np.random.default_rng(seed),
    ):
        rows = [int(feature) for feature in seen.features[:, 0]]
        assert not met & set(rows)
        met |= set(rows)
        visible = list(zip(seen.users.tolist(), seen.rows.tolist(), strict=True))
        wanted = list(
            zip(targets.users.tolist(), competing[targets.items.numpy()].tolist(), strict=True)
        )
        blocked = zip(
            targets.seen_users.tolist(), competing[targets.seen_items.numpy()], strict=True
        )
        assert not set(visible) & set(wanted)
        assert {pair for pair in visible if pair[1] in competing} == {
            (u, int(i)) for u, i in blocked
        }
        for place, user in enumerate(rows):
            had = set(matrix[user].indices.tolist())
            assert {i for p, i in visible + wanted if p == place} <= had
            mine = [i for p, i in wanted if p == place]
            assert mine
            np.testing.assert_allclose(targets.weights[targets.users == place], len(mine) ** -0.5)
        weights = [matrix[rows[u], i] for u, i in visible]
        np.testing.assert_allclose(seen.weights.numpy(), weights)
    assert met == {u for u in range(8) if set(matrix[u].indices) & set(competing.tolist())}


def test_as_much_is_hidden_as_was_asked_for():
    matrix = sp.csr_matrix(np.ones((2_000, 10), np.float32))
    hiding = Hiding(share=0.3, all_targets=0.2, others=0.5, user_weight=1.0)
    seen, targets = next(
        epoch_batches(
            matrix,
            np.zeros((2_000, 0), np.float32),
            competing=np.arange(5),
            hiding=hiding,
            batch_size=2_000,
            rng=np.random.default_rng(0),
        )
    )
    counts = np.bincount(targets.users.numpy(), minlength=2_000)
    assert abs((counts == 5).mean() - 0.2) < 0.03
    assert abs(counts.mean() / 5 - (0.2 + 0.8 * 0.3)) < 0.03
    assert abs((seen.rows >= 5).sum().item() / 10_000 - 0.5) < 0.03
    assert (targets.weights == 1).all()
