"""bfloat16 and TF32 in Triton 3.9's interpreter, which keeps bfloat16 as integers: casts, `tl.dot`, and refusals.

The interpreter casts float32 to bfloat16 by truncation, multiplies the integers in `tl.dot` and adds them in arithmetic.
Here casts round to nearest even as GPUs do, `tl.dot` multiplies the numbers, and arithmetic raises TypeError.
`tl.dot` of float32 drops the mantissa bits that tensor cores drop, unless another precision is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton._C.libtriton import ir
from triton.runtime.interpreter import TensorHandle

KEPT_BY_TF32 = np.uint32(0xFFFFE000)


def to_float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def to_bfloat16(values: np.ndarray, *, truncate: bool = False) -> np.ndarray:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    upper = bits >> np.uint32(16)
    if not truncate:
        upper = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    nan = np.isnan(values)
    return np.where(nan, np.uint16(0x7FFF), upper.astype(np.uint16)).astype(np.uint16).reshape(values.shape)


def cast(convert: Callable) -> Callable:
    """For `cast_impl` and `create_fp_to_fp`."""

    def run(builder: Any, source: Any, to: Any, rounding: Any = None) -> Any:
        pair = source.dtype.scalar, to.scalar
        if pair == (tl.bfloat16, tl.float32):
            return TensorHandle(to_float32(source.data), tl.float32)
        if pair == (tl.float32, tl.bfloat16):
            truncate = rounding is not None and rounding != ir.ROUNDING_MODE.RTNE
            return TensorHandle(to_bfloat16(source.data, truncate=truncate), tl.bfloat16)
        return convert(builder, source, to) if rounding is None else convert(builder, source, to, rounding)

    return run


def dot(multiply: Callable) -> Callable:
    def run(builder: Any, a: Any, b: Any, sum_: Any, precision: Any, *rest: Any) -> Any:
        def operand(x: Any) -> Any:
            if x.dtype.scalar == tl.bfloat16:
                return TensorHandle(to_float32(x.data), tl.float32)
            if x.dtype.scalar == tl.float32 and precision == ir.INPUT_PRECISION.TF32:
                bits = np.ascontiguousarray(x.data).view(np.uint32) & KEPT_BY_TF32
                return TensorHandle(bits.view(np.float32), tl.float32)
            return x

        return multiply(builder, operand(a), operand(b), sum_, precision, *rest)

    return run


def refuse(operation: Callable) -> Callable:
    """For arithmetic: the first operand's type is that of all."""

    def run(builder: Any, first: Any, *rest: Any) -> Any:
        reject(first)
        return operation(builder, first, *rest)

    return run


def refuse_reduction(check: Callable) -> Callable:
    def run(reduction: Any, inputs: Any) -> Any:
        for x in inputs:
            reject(x.handle)
        return check(reduction, inputs)

    return run


def reject(operand: Any) -> None:
    if operand.dtype.scalar == tl.bfloat16:
        raise TypeError("arithmetic on bfloat16, which the interpreter gets wrong: .to(tl.float32) first")
