"""The activations of csrc/cpu/activation.h keep the bounds that it gives, on every instruction set.

Eight million float32 of either sign: every 2003rd of all, every 53rd of those between 2^-13 and 2^7.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor

from fastwm import _cpu
from fastwm.engine.pack import DTYPES

FUNCTIONS = {"exp": 0, "silu": 1, "mish": 2, "gelu": 3}
INFINITY = 0x7F800000  # its bits
CHUNK = 1 << 16  # in cache


def activate(isa: str, function: str, dtype: str, x: Tensor) -> Tensor:
    y = torch.full_like(x, float("nan"))
    _cpu.activate(isa, x.data_ptr(), y.data_ptr(), x.numel(), FUNCTIONS[function], DTYPES[dtype])
    return y


def truth(function: str, x: Tensor) -> Tensor:
    """In float64, without differences of nearly equal numbers."""
    if function == "exp":
        return x.exp()
    if function == "silu":
        return x / (1 + (-x).exp())
    if function == "mish":
        w = x.exp()
        return torch.where(x > 300, x, x * (w * (w + 2)) / (w * (w + 2) + 2))
    return 0.5 * x * torch.special.erfc(-x / math.sqrt(2))


def allowed(function: str, dtype: str, isa: str, x: Tensor, y: Tensor) -> Tensor:
    """The bounds of activation.h, and what float32 cannot hold beside them."""
    if function == "gelu":
        if dtype == "float32" or isa == "baseline":
            return (2e-7 if isa == "baseline" else 1e-7) * x.abs().clamp(min=1)
        return (8e-5 * y.abs()).clamp(min=5e-6)
    relative = {"exp": 3e-7, "silu": 4e-7, "mish": 5e-7}[function]
    return relative * y.abs() + 2e-36


def floats(first: int, last: int, step: int) -> Tensor:
    positive = torch.arange(first, last, step, dtype=torch.int32).view(torch.float32)
    return torch.cat([positive, -positive])


@functools.cache
def samples(function: str) -> list[tuple[Tensor, Tensor]]:
    """(x, truth) in chunks."""
    exponent = 1 << 23
    x = torch.cat([floats(0, INFINITY, 2003), floats((127 - 13) * exponent, (127 + 7) * exponent, 53)])
    if function == "exp":
        x = x[x.abs() <= 87]
    return [(part, truth(function, part.double())) for part in x.split(CHUNK)]


@pytest.mark.parametrize(("function", "dtype"), [*((f, "float32") for f in FUNCTIONS), ("gelu", "bfloat16")])
def test_within_its_bound(isa: str, function: str, dtype: str) -> None:
    for x, y in samples(function):
        got = activate(isa, function, dtype, x)
        error = (got.double() - y).abs()
        outside = ~(error <= allowed(function, dtype, isa, x.double(), y))  # true for NaN
        assert not outside.any(), (
            f"{function}({x[outside][0]:.9g}) = {got[outside][0]:.9g}, truth {y[outside][0]:.9g}"
        )
        if function != "exp":
            assert not ((x < 0) & (got > 0)).any(), function


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_special_numbers(isa: str, dtype: str) -> None:
    nan, infinity, largest = float("nan"), float("inf"), torch.finfo(torch.float32).max
    x = torch.tensor([nan, infinity, -infinity, largest, -largest, 0.0, -0.0])
    for function in ("silu", "mish", "gelu"):
        y = activate(isa, function, dtype, x)
        assert y[0].isnan(), function
        assert y[[1, 3, 5, 6]].tolist() == [infinity, largest, 0, 0], function
        tail = 5e-6 if dtype != "float32" else 1e-12
        assert all(-tail <= value <= 0 for value in y[[2, 4]].tolist()), function
    y = activate(isa, "exp", dtype, x)
    ends = activate(isa, "exp", dtype, torch.tensor([87.0, -87.0])).tolist()
    assert y[0].isnan()
    assert y[1:].tolist() == [*ends, *ends, 1, 1]


def test_the_end_of_an_array_is_like_its_middle(isa: str) -> None:
    x = torch.linspace(-4, 4, 37)
    whole = activate(isa, "gelu", "float32", x)
    assert torch.equal(activate(isa, "gelu", "float32", x[:11].clone()), whole[:11])
