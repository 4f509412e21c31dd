import numpy as np
import pytest

from feature_store.vectors import IndexSpec, VectorIndex, faiss_build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(faiss_build().gpus == 0, reason="FAISS sees no GPU"),
]


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivfpq"])
@pytest.mark.parametrize("share", [None, 0.5, 0.01])
def test_a_gpu_answers_as_the_cpu_does(kind, share):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20_000, 32)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    allowed = None if share is None else rng.random(len(vectors)) < share
    spec = IndexSpec(kind=kind, n_lists=64, n_probe=64)
    on_cpu = VectorIndex.build(vectors, IndexSpec(kind="flat"), device="cpu")
    on_gpu = VectorIndex.build(vectors, spec, device="auto")
    assert on_gpu.device == "cuda"
    wanted, _ = on_cpu.search(vectors[:20], 50, allowed=allowed)
    found, rows = on_gpu.search(vectors[:20], 50, allowed=allowed)
    assert (rows >= 0).all()
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_an_offset_orders_what_a_gpu_found():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((2_000, 16)).astype(np.float32)
    offset = rng.standard_normal(2_000).astype(np.float32)
    spec = IndexSpec(kind="ivf", n_lists=8, n_probe=8)
    on_gpu = VectorIndex.build(vectors, spec, device="auto")
    assert not on_gpu.best_by_sum
    found, rows = on_gpu.search(vectors[:5], 2_000, offset=offset)
    sums = vectors[:5] @ vectors.T + offset
    np.testing.assert_allclose(found, np.take_along_axis(sums, rows, axis=1), atol=1e-3)
    assert (np.diff(found, axis=1) <= 1e-3).all()
