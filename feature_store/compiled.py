"""numba's compiler behind a decorator that keeps a function's type."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

F = TypeVar("F", bound=Callable[..., Any])


def compiler(room: Path, **options: Any) -> Callable[[F], F]:
    """A decorator for the functions of one room.

    It compiles at the first call, without the GIL, with wrapping integers as in C. The machine
    code is kept beside the source, in a folder that is named after the text of the whole room:
    numba itself notices a change of the function's own file only, and would go on with the old
    code of what it calls. Where that folder cannot be written, numba takes the user's cache.

    Array bounds are not checked unless the environment says `NUMBA_BOUNDSCHECK=1`.
    """
    folder = cache_folder(room)

    def compiled(function: F) -> F:
        config: Any = numba.config
        configured = config.CACHE_DIR
        config.CACHE_DIR = configured or str(folder)
        try:
            jit = numba.njit(cache=True, nogil=True, error_model="numpy", **options)
            return cast(F, jit(function))
        finally:
            config.CACHE_DIR = configured

    return compiled


def cache_folder(room: Path) -> Path:
    """Where the machine code of a folder's sources is kept."""
    sources = sorted(room.rglob("*.py"))
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    return room / "__pycache__" / f"kernels-{digest[:16]}"


def _copy_bytes(_: Any, out: Any, at: Any, text: Any, begin: Any, n: Any) -> Any:
    del at, begin, n  # their types do not matter: they are numbers

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        into, place, of, start, length = arguments
        target = context.make_array(signature.args[0])(context, builder, into).data
        source = context.make_array(signature.args[2])(context, builder, of).data
        copy: Any = cgutils.raw_memcpy
        copy(builder, builder.gep(target, [place]), builder.gep(source, [start]), length, 1)
        return context.get_dummy_value()

    return types.void(out, types.intp, text, types.intp, types.intp), emit


# Inside a compiled function, (out, at, text, begin, n): out[at : at + n] = text[begin : begin + n],
# of contiguous uint8 arrays that do not overlap there. A loop takes nanoseconds a byte.
copy_bytes: Callable[..., None] = intrinsic(_copy_bytes)


def _pointer(_: Any, address: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(address), emit


_at: Any = intrinsic(_pointer)


@numba.njit(inline="always")
def array_at(address: Any, shape: Any, dtype: Any) -> Any:
    """Inside a compiled function, the memory at `address` (uint64) as a contiguous array; whoever
    owns it must outlive that."""
    return numba.carray(_at(address), shape, dtype)  # type: ignore[attr-defined]


def _prefetch(level: int) -> Any:
    def typing(_: Any, array: Any, at: Any) -> Any:
        del at

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            whole, place = arguments
            start = context.make_array(signature.args[0])(context, builder, whole).data
            pointer_type, number = ir.IntType(8).as_pointer(), ir.IntType(32)
            declared = ir.FunctionType(ir.VoidType(), [pointer_type, number, number, number])
            insert: Any = cgutils.get_or_insert_function
            function = insert(builder.module, declared, "llvm.prefetch.p0")
            where = builder.bitcast(builder.gep(start, [place]), pointer_type)
            to_read, nearness, data = (ir.Constant(number, each) for each in (0, 4 - level, 1))
            builder.call(function, [where, to_read, nearness, data])
            return context.get_dummy_value()

        return types.void(array, types.intp), emit

    return intrinsic(typing)


# Inside a compiled function, (array, at): begin to bring the cache line of a contiguous array's
# element `at`, counted flat. Where memory is read in no order, waiting for it costs more than what
# is done with it. `prefetch_far` brings it into the second level of the cache: the first has room
# for few requests, and 10 GB/s came through it where 16 came through the second (Zen 4).
prefetch: Callable[..., None] = _prefetch(1)
prefetch_far: Callable[..., None] = _prefetch(2)
CACHE_LINE_BYTES = 64


@numba.njit(inline="always")
def prefetch_row(array: Any, row: Any) -> None:
    """Inside a compiled function, begin to bring `array[row]` of a contiguous matrix."""
    width = array.shape[1]
    for column in range(0, width, CACHE_LINE_BYTES // array.itemsize):
        prefetch(array, np.int64(row) * width + column)
