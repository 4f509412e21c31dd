import numpy as np
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.editions.small_batches import SmallBatchTower
from models.recommender.user_tower import Histories, UserTower


@settings(max_examples=60, deadline=None)
@given(
    n_users=st.integers(1, 6),
    n_types=st.integers(1, 3),
    n_features=st.integers(0, 4),
    d_hidden=st.sampled_from([0, 5]),
    density=st.sampled_from([0.0, 0.1, 0.6]),
    seed=st.integers(0, 2**16),
)
def test_small_batches_get_what_the_network_gives(
    n_users, n_types, n_features, d_hidden, density, seed
):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    tower = UserTower(dimension=6, n_types=n_types, n_features=n_features, d_hidden=d_hidden)
    for each in tower.parameters():
        torch.nn.init.normal_(each)
    vectors = rng.standard_normal((20, 6)).astype(np.float32)
    types = rng.integers(n_types, size=20)
    histories = sp.random(n_users, 20, density, format="csr", dtype=np.float32, rng=rng)
    features = rng.standard_normal((n_users, n_features)).astype(np.float32)

    with torch.inference_mode():
        flat = Histories(
            rows=torch.from_numpy(histories.indices.astype(np.int64)),
            users=torch.from_numpy(np.repeat(np.arange(n_users), np.diff(histories.indptr))),
            weights=torch.from_numpy(histories.data),
            features=torch.from_numpy(features),
        )
        wanted = tower(flat, torch.from_numpy(vectors), torch.from_numpy(types)).numpy()

    found = SmallBatchTower.of(tower)(histories, features, vectors, types)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=2e-6)
