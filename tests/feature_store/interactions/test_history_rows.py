import numpy as np
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from feature_store.interactions.history_rows import HistoryRows, as_matrix

N_ITEMS = 12
histories = st.lists(
    st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.floats(0, 9, width=32)), max_size=6),
    max_size=6,
)


@given(histories=histories, data=st.data())
def test_they_are_the_rows_of_scipys_matrix(histories, data):
    weighed = [
        (np.array([i for i, _ in each], np.int32), np.array([w for _, w in each], np.float32))
        for each in histories
    ]
    dense = np.zeros((len(histories), N_ITEMS), np.float32)
    for row, (items, weights) in enumerate(weighed):
        np.add.at(dense[row], items, weights)

    rows = HistoryRows.of(weighed, N_ITEMS)
    assert rows.shape == dense.shape
    np.testing.assert_allclose(as_matrix(rows).toarray(), dense, rtol=1e-6)

    if histories:
        some = data.draw(st.lists(st.integers(0, len(histories) - 1), max_size=4))
        np.testing.assert_allclose(as_matrix(rows.take(some)).toarray(), dense[some], rtol=1e-6)
    matrix = sp.csr_matrix(dense)
    assert as_matrix(matrix) is matrix
