from pathlib import Path

import numpy as np

from feature_store.traffic.compiled import cache_folder, int64


def test_machine_code_is_kept_apart_for_each_text_of_the_room(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    module = tmp_path / "inner" / "kernel.py"
    module.write_text("one")
    before = cache_folder(tmp_path)
    assert cache_folder(tmp_path) == before
    module.write_text("two")
    assert cache_folder(tmp_path) != before


def test_a_byte_is_widened_with_a_sign() -> None:
    assert int64(np.uint8(255)) - 256 == -1
