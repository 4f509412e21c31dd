import numpy as np
import pytest
from safetensors.numpy import save_file

from feature_store.editions.mapped import map_arrays


def test_mapped_arrays_are_those_that_were_saved(tmp_path):
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "none": np.zeros((4, 0), np.float32),
        "numbers": np.arange(3, dtype=np.int64),
    }
    save_file(arrays, tmp_path / "x.safetensors")
    mapped = map_arrays(tmp_path / "x.safetensors")
    assert set(mapped) == set(arrays)
    for name, wanted in arrays.items():
        np.testing.assert_array_equal(mapped[name], wanted)
        assert mapped[name].dtype == wanted.dtype


def test_a_write_stays_in_the_process(tmp_path):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "x")
    map_arrays(tmp_path / "x")["a"][0] = 1
    assert map_arrays(tmp_path / "x")["a"][0] == 0


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, b"not a safetensors file at all"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="x"):
        map_arrays(tmp_path / "x")
