"""What numba has no words for: half floats, and sums that stay in registers.

Each is a function inside compiled code. The code is LLVM's, which uses the vectors that a processor
has; half floats need one that converts them (x86 since 2012, ARM).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as numba_cgutils
from numba.extending import intrinsic

# Columns that are summed side by side: blocks of the first width, what is left by the next.
_WIDTHS = (32, 16, 8, 4, 1)
cgutils: Any = numba_cgutils  # without types
_FUSED = ("contract",)  # a product and a sum are one operation where the processor has it
_FLOAT, _HALF, _INT = ir.FloatType(), ir.HalfType(), ir.IntType(32)


def _over_columns(term: Callable[[Any, Any, Any], Any]) -> Callable[..., None]:
    """(key (d,), rows (d, n), out (n,)): out[i] = Σ_j term(key[j], rows[j, i]).

    A compiled loop over j and i would keep the sums in memory, and look at every turn whether `out`
    overlaps the rows: four times as long for 32 × 32.
    """

    def typing(_: Any, key: Any, rows: Any, out: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            of_key, of_rows, into = (
                context.make_array(kind)(context, builder, value)
                for kind, value in zip(signature.args, arguments, strict=True)
            )
            n = cgutils.unpack_tuple(builder, of_rows.shape)[1]
            stored = _HALF if rows.dtype == types.uint16 else _FLOAT
            begin = n.type(0)
            for width in _WIDTHS:
                end, block = builder.and_(n, n.type(-width)), ir.VectorType(stored, width)
                with cgutils.for_range_slice(builder, begin, end, n.type(width), n.type) as (at, _):
                    sums = _block_of_sums(builder, term, of_key, of_rows, at, block)
                    target = builder.bitcast(builder.gep(into.data, [at]), sums.type.as_pointer())
                    builder.store(sums, target, align=4)
                begin = end
            return context.get_dummy_value()

        return types.void(key, rows, out), emit

    return intrinsic(typing)


def _block_of_sums(builder: Any, term: Any, key: Any, rows: Any, at: Any, block: Any) -> Any:
    """The sums of the columns from `at` on, as many as `block` is wide."""
    d, n = cgutils.unpack_tuple(builder, rows.shape)
    one, vector = d.type(1), ir.VectorType(_FLOAT, block.count)
    # Two sums, of even and of odd j: an addition need not wait for the one before.
    even, odd = cgutils.alloca_once(builder, vector), cgutils.alloca_once(builder, vector)

    def add(j: Any, sums: Any) -> None:
        values = _load(builder, rows.data, builder.add(builder.mul(j, n), at), block)
        if block.element is _HALF:
            values = builder.fpext(values, vector)
        more = term(builder, _splat(builder, _load(builder, key.data, j), vector), values)
        builder.store(builder.fadd(builder.load(sums), more, flags=_FUSED), sums)

    for sums in (even, odd):
        builder.store(vector([0.0] * block.count), sums)
    with cgutils.for_range(builder, builder.lshr(d, one)) as pair:
        j = builder.shl(pair.index, one)
        add(j, even)
        add(builder.add(j, one), odd)
    with builder.if_then(builder.trunc(d, ir.IntType(1))):  # the last of an odd number
        add(builder.sub(d, one), even)
    return builder.fadd(builder.load(even), builder.load(odd))


def _load(builder: Any, data: Any, place: Any, kind: Any = _FLOAT) -> Any:
    element = kind.element if isinstance(kind, ir.VectorType) else kind
    pointer = builder.bitcast(builder.gep(data, [place]), kind.as_pointer())
    return builder.load(pointer, align=2 if element is _HALF else 4)


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    nothing = vector(ir.Undefined)
    first = builder.insert_element(nothing, value, _INT(0))
    everywhere = ir.VectorType(_INT, vector.count)([0] * vector.count)
    return builder.shuffle_vector(first, nothing, everywhere)


def _product(builder: Any, a: Any, b: Any) -> Any:
    return builder.fmul(a, b, flags=_FUSED)


def _squared_difference(builder: Any, a: Any, b: Any) -> Any:
    difference = builder.fsub(a, b)
    return builder.fmul(difference, difference, flags=_FUSED)


# (key (d,) float32, rows (d, n), out (n,) float32), rows being float32, or uint16 that are the bits
# of half floats: `key @ rows`, and the squared distances of `key` from the columns.
products = _over_columns(_product)
squared_distances = _over_columns(_squared_difference)


def _float_of_bits(_: Any, bits: Any) -> Any:
    del bits  # its type does not matter: it is an int32

    def emit(_: Any, builder: Any, __: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], _FLOAT)

    return types.float32(types.int32), emit


# The float32 that an int32's bits are.
float_of_bits: Callable[..., Any] = intrinsic(_float_of_bits)
