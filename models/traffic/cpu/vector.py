"""Sixteen floats that compiled code handles as one value.

The compiler does not vectorise a loop over states inside a loop over channels, nor does it know
that arrays do not overlap; here it is told. Sixteen float32 are one register of AVX-512, two of
AVX2, four of NEON: LLVM splits them as the machine needs.
"""

# ruff: noqa: ARG001  (numba calls each with arguments that not every instruction looks at)

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model

from models.traffic.cpu.compiled import compiled

# numba's decorator is typed as what it takes, which is not how the result is called.
instruction = cast(Callable[[Callable[..., Any]], Callable[..., Any]], intrinsic)
LANES = 16
LOG2_E = np.float32(1.4426950408889634)
LN_2 = np.float32(0.6931471805599453)
# 2^f for |f| ≤ 1/2 in float32: largest relative error 2.4e-7 (weighted least squares, reweighted
# until the errors were level).
P0, P1 = np.float32(1.0000000716545698), np.float32(0.6931469670612154)
P2, P3 = np.float32(0.240221197242116), np.float32(0.0555071327928985)
P4, P5 = np.float32(0.009675541319528372), np.float32(0.0013276470120314465)


class VectorType(types.Type):
    """The type of such a value, for numba."""

    def __init__(self) -> None:
        super().__init__(name="float32x16")


VECTOR: Any = VectorType()
IR_FLOAT, IR_INT = ir.FloatType(), ir.IntType(32)
IR_VECTOR, IR_INTS = ir.VectorType(IR_FLOAT, LANES), ir.VectorType(IR_INT, LANES)


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):
    """How it lies in machine code."""

    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, IR_VECTOR)  # type: ignore[no-untyped-call]


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), IR_VECTOR.as_pointer())


def _in_every_lane(builder: Any, number: Any) -> Any:
    undefined = ir.Constant(IR_VECTOR, ir.Undefined)
    one = builder.insert_element(undefined, number, ir.Constant(IR_INT, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(IR_INTS, [0] * LANES))


@instruction
def load(typing: Any, array: Any, index: Any) -> Any:
    """`array[index : index + 16]` of a flat float32 array; nothing checks the bounds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=4)

    return VECTOR(array, types.intp), generate


@instruction
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    """`array[index : index + 16] = value`; nothing checks the bounds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        *place, stored = arguments
        builder.store(stored, _pointer(context, builder, signature.args[0], *place), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, VECTOR), generate


@instruction
def broadcast(typing: Any, array: Any, index: Any) -> Any:
    """`array[index]` in every lane; nothing checks the bounds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return _in_every_lane(builder, builder.load(builder.gep(data, [arguments[1]])))

    return VECTOR(array, types.intp), generate


@instruction
def splat(typing: Any, value: Any) -> Any:
    """The same number in every lane."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _in_every_lane(builder, arguments[0])

    return VECTOR(types.float32), generate


@instruction
def total(typing: Any, value: Any) -> Any:
    """The sum of the lanes, in any order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(IR_FLOAT, [IR_FLOAT, IR_VECTOR])
        name = f"llvm.vector.reduce.fadd.v{LANES}f32"
        function = builder.module.declare_intrinsic(name, fnty=kind)
        start = ir.Constant(IR_FLOAT, -0.0)
        return builder.call(function, [start, arguments[0]], fastmath=("reassoc",))

    return types.float32(value), generate


@instruction
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """a · b + c."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # Fused where the machine can; `llvm.fma` would call a slow function where it cannot.
        kind = ir.FunctionType(IR_VECTOR, [IR_VECTOR] * 3)
        name = f"llvm.fmuladd.v{LANES}f32"
        return builder.call(builder.module.declare_intrinsic(name, fnty=kind), arguments)

    return VECTOR(VECTOR, VECTOR, VECTOR), generate


@instruction
def maximum(typing: Any, a: Any, b: Any) -> Any:
    """The larger of each pair; b where a is not a number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return VECTOR(VECTOR, VECTOR), generate


@instruction
def minimum(typing: Any, a: Any, b: Any) -> Any:
    """The smaller of each pair; b where a is not a number."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *arguments), *arguments)

    return VECTOR(VECTOR, VECTOR), generate


@instruction
def _nearest(typing: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(IR_VECTOR, [IR_VECTOR])
        name = f"llvm.rint.v{LANES}f32"
        return builder.call(builder.module.declare_intrinsic(name, fnty=kind), arguments)

    return VECTOR(VECTOR), generate


@instruction
def _scale_by_power(typing: Any, value: Any, whole: Any) -> Any:
    """value · 2^whole, by adding to the exponent's bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        power = builder.fptosi(arguments[1], IR_INTS)
        shifted = builder.shl(power, ir.Constant(IR_INTS, [23] * LANES))
        bits = builder.add(builder.bitcast(arguments[0], IR_INTS), shifted)
        return builder.bitcast(bits, IR_VECTOR)

    return VECTOR(VECTOR, VECTOR), generate


def _arithmetic(operation: Callable[[Any, Any], Any], name: str) -> None:
    @instruction
    def both(typing: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return getattr(builder, name)(*arguments)

        return VECTOR(VECTOR, VECTOR), generate

    @overload(operation, strict=False)  # strict would compare the annotations, too
    def of_vectors(a: Any, b: Any) -> Any:
        if isinstance(a, VectorType) and isinstance(b, VectorType):
            return lambda a, b: both(a, b)
        return None


for _operation, _name in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_operation, _name)


@compiled
def falling_exp2(x: Any) -> Any:
    """2^x for x below 127, at least 2^-125; not a number where x is none."""
    x = maximum(splat(np.float32(-125.0)), x)
    whole = _nearest(x)
    part = x - whole
    p = fma(splat(P5), part, splat(P4))
    p = fma(p, part, splat(P3))
    p = fma(p, part, splat(P2))
    p = fma(p, part, splat(P1))
    p = fma(p, part, splat(P0))
    return _scale_by_power(p, whole)


@compiled
def exp2(x: Any) -> Any:
    """2^x, between 2^-125 and 2^126 beyond which it is held; not a number where x is none."""
    return falling_exp2(minimum(splat(np.float32(126.0)), x))


@compiled
def sigmoid(x: Any) -> Any:
    """1 / (1 + exp(-x))."""
    one = splat(np.float32(1.0))
    return one / (one + exp2(x * splat(-LOG2_E)))


@compiled
def silu(x: Any) -> Any:
    """x / (1 + exp(-x))."""
    return x / (splat(np.float32(1.0)) + exp2(x * splat(-LOG2_E)))


@compiled
def softplus(x: Any) -> Any:
    """log(1 + exp(x)) = max(x, 0) + 2 artanh(e / (2 + e)) with e = exp(-|x|)."""
    zero, two = splat(np.float32(0.0)), splat(np.float32(2.0))
    above = maximum(zero, x)
    e = falling_exp2((x - above - above) * splat(LOG2_E))
    s = e / (two + e)  # at most 1/3: eight terms of the series are enough for float32
    s2 = s * s
    p = splat(np.float32(1 / 15))
    p = fma(p, s2, splat(np.float32(1 / 13)))
    p = fma(p, s2, splat(np.float32(1 / 11)))
    p = fma(p, s2, splat(np.float32(1 / 9)))
    p = fma(p, s2, splat(np.float32(1 / 7)))
    p = fma(p, s2, splat(np.float32(1 / 5)))
    p = fma(p, s2, splat(np.float32(1 / 3)))
    p = fma(p, s2, splat(np.float32(1.0)))
    return fma(two * s, p, above)
