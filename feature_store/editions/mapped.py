"""Arrays of a safetensors file, mapped into memory: who reads the same file shares its pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

_HEADER_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
}


def map_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """Name → array, whose pages are read when they are first touched.

    A write stays in this process: the file never changes.

    Raises:
        ValueError: not a safetensors file of float32, int32 or int64 arrays.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
        start = _HEADER_LENGTH_BYTES + length
        if length > min(size, _MAX_HEADER_BYTES):
            raise ValueError(f"{path} is no safetensors file")
        try:
            header = orjson.loads(file.read(length))
        except orjson.JSONDecodeError as error:
            raise ValueError(f"{path} is no safetensors file: {error}") from error
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{path}: '{name}' has dtype {entry['dtype']}, not float32 or an int")
        dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        if start + end > size or end - begin != dtype.itemsize * int(np.prod(shape)):
            raise ValueError(f"{path}: '{name}' does not fit in the file")
        if begin == end:
            arrays[name] = np.zeros(shape, dtype)
            continue
        # A plain view of the map: the subclass costs time at every operation.
        mapped = np.memmap(path, dtype, mode="c", offset=start + begin, shape=shape)
        arrays[name] = mapped.view(np.ndarray)
    return arrays
