import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from feature_store.interactions.strongest import strongest

# Few different numbers: many of them are equal.
WEIGHTS = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0])


@settings(deadline=None)  # the first call compiles
@given(
    weights=arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=WEIGHTS),
    k=st.integers(0, 14),
    transposed=st.booleans(),
)
def test_the_largest_above_zero_of_each_column_come_largest_first(weights, k, transposed):
    weights = weights.T if transposed else weights
    rows, kept = strongest(weights, k)
    for column, found, values in zip(weights.T, rows, kept, strict=True):
        order = [row for row in np.argsort(-column, kind="stable") if column[row] > 0][:k]
        assert found.tolist() == order + [-1] * (k - len(order))
        assert values.tolist() == [*column[order].tolist(), *[0.0] * (k - len(order))]
