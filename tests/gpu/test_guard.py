"""The guard finds what it is for, and nothing in kernels that are right; so does ttsem, where it looks for the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor
from triton_fixtures import INTERPRETED, not_under_ttsem, ttsem

pytest.importorskip("triton")

import guard_kernels as kernels
from guard import Fault, OutOfBounds, Race, Unwritten, guard

pytestmark = pytest.mark.triton
interpreted = pytest.mark.skipif(not INTERPRETED, reason="about the interpreter: TRITON_INTERPRET=1")


def scale(faulty: bool) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(100), torch.full((100,), torch.nan)
    kernels.scale[(2,)](x, y, 100, BLOCK=64, FAULTY=faulty)
    return y, 2 * x


def rows(faulty: bool) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(3, 8)[:, :5], torch.full((3, 5), torch.nan)
    kernels.rows[(2,)](x, y, 3, 5, 8, BLOCK=8, FAULTY=faulty)
    return y[:2], x[:2]


def total(faulty: bool) -> tuple[Tensor, Tensor]:
    x, y = torch.arange(100, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
    kernels.total[(2,)](x, y, 100, BLOCK=64, FAULTY=faulty)
    return y, x.sum(0, keepdim=True)


def shift(faulty: bool) -> tuple[Tensor, Tensor]:
    x, y = torch.arange(100), torch.full((100,), -1)
    kernels.shift[(4,)](x, y, 100, BLOCK=32, FAULTY=faulty)
    return y, (x + 1) % 100


def split_sum(faulty: bool) -> tuple[Tensor, Tensor]:
    x, parts = torch.arange(100.0), torch.full((4,), torch.nan)
    y, counter = torch.full((1,), torch.nan), torch.zeros(1, dtype=torch.int32)
    for _ in range(2):  # the last program sets the counter back
        kernels.split_sum[(4,)](x, parts, counter, y, 100, BLOCK=32, FAULTY=faulty)
    return y, x.sum(0, keepdim=True)


def reverse(faulty: bool) -> tuple[Tensor, Tensor]:
    x, y, scratch = torch.randn(64), torch.full((64,), torch.nan), torch.full((64,), torch.nan)
    kernels.reverse[(1,)](scratch, x, y, BLOCK=64, FAULTY=faulty)
    return y, x.flip(0)


def collide(faulty: bool) -> tuple[Tensor, Tensor]:
    y = torch.full((8,), -1, dtype=torch.int32)
    kernels.collide[(1,)](y, BLOCK=16, FAULTY=faulty)
    return y, torch.arange(8)


def double(faulty: bool) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(16).bfloat16(), torch.full((16,), torch.nan)
    kernels.double[(1,)](x, y, BLOCK=16, FAULTY=faulty)
    return y, 2 * x.float()


def sum_up(faulty: bool) -> tuple[Tensor, Tensor]:
    x, y = torch.arange(16).bfloat16(), torch.full((1,), torch.nan)
    kernels.sum_up[(1,)](x, y, BLOCK=16, FAULTY=faulty)
    return y, x.float().sum(0, keepdim=True)


class Case(NamedTuple):
    """Something to launch, and what is wrong with it if it is faulty."""

    run: Callable[[bool], tuple[Tensor, Tensor]]
    error: type
    message: str
    unseen: str = ""  # why ttsem does not look for it


CASES = [
    Case(scale, OutOfBounds, r"28 of 64 lanes outside of x \[100\], at element 100"),
    Case(
        rows,
        OutOfBounds,
        r"3 of 8 lanes outside of x \[3, 5\], at element",
        "bounds are those of the whole span",
    ),
    Case(total, Race, r"element 0 of y \[1\], written by program"),
    Case(shift, Race, r"of x \[100\]"),
    Case(split_sum, Race, r"of parts \[4\], (written by program|stored by this program)"),
    Case(reverse, Race, "debug_barrier", "programs have no threads"),
    Case(collide, Race, "two lanes of one store"),
    Case(double, TypeError, r"\.to\(tl\.float32\)", "its bfloat16 is right"),
    Case(sum_up, TypeError, r"\.to\(tl\.float32\)", "its bfloat16 is right"),
]


@pytest.fixture
def tensors(triton_device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are made on the device of the kernels."""
    for name in ("randn", "full", "arange", "zeros"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *a, _make=make, **k: _make(*a, device=triton_device, **k))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, id=case.run.__name__, marks=pytest.mark.ordered_by_atomics if case.run is split_sum else ()
        )
        for case in CASES
    ],
)
def test_right_kernels_pass(case: Case, tensors: None, order: str | int) -> None:
    with guard(order):
        result, expected = case.run(False)
    assert torch.equal(result.double(), expected.double())


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=c.run.__name__, marks=not_under_ttsem(c.unseen) if c.unseen else ()) for c in CASES],
)
def test_faults_are_found(case: Case, tensors: None, order: str | int) -> None:
    if INTERPRETED:
        error, message = case.error, case.message
    else:
        error, message = ttsem()["KernelFault"], "past the end|both touch|different values"
    with guard(order), pytest.raises(error, match=message):
        case.run(True)


@interpreted
def test_fault_names_line_and_program() -> None:
    with guard(), pytest.raises(Fault, match=r"guard_kernels\.py:\d+, program \(1, 0, 0\): load: "):
        scale(True)


@interpreted
def test_arguments_that_touch_each_other_are_told_apart() -> None:
    buffer = torch.randn(300)
    with guard(), pytest.raises(OutOfBounds, match="outside of x"):
        kernels.scale[(2,)](buffer[:100], buffer[100:200], 100, BLOCK=64, FAULTY=True)


@interpreted
def test_arguments_that_share_memory_race() -> None:
    x = torch.arange(100)
    with guard(), pytest.raises(Race, match="nothing orders the two"):
        kernels.shift[(4,)](x, x.view(-1), 100, BLOCK=32, FAULTY=False)


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dot_of_halves(dtype: torch.dtype) -> None:
    a, b, c = torch.randn(16, 32).to(dtype), torch.randn(32, 16).to(dtype), torch.full((16, 16), torch.nan)
    with guard():
        kernels.matmul[(1,)](a, b, c, 16, 16, 32, None)
    assert torch.allclose(c, a.float() @ b.float(), atol=1e-5)


@interpreted
def test_dot_of_bfloat16_is_garbage_without_the_guard() -> None:
    a, b, c = torch.randn(16, 32).bfloat16(), torch.randn(32, 16).bfloat16(), torch.full((16, 16), torch.nan)
    kernels.matmul[(1,)](a, b, c, 16, 16, 32, None)
    assert not torch.allclose(c, a.float() @ b.float(), rtol=0.5, atol=10), (
        "the interpreter has learnt bfloat16"
    )


@interpreted
def test_dot_of_float32_is_tf32_unless_asked_for_more() -> None:
    a, b = torch.randn(16, 32), torch.randn(32, 16)
    errors = {}
    for precision in ("tf32", "ieee"):
        c = torch.full((16, 16), torch.nan)
        with guard():
            kernels.matmul[(1,)](a, b, c, 16, 16, 32, precision)
        errors[precision] = (c - a.double() @ b.double()).norm() / c.norm()
    assert errors["ieee"] < 1e-6 < 1e-4 < errors["tf32"]


@interpreted
def test_bfloat16_rounds_to_nearest_even() -> None:
    x = torch.cat(
        [
            torch.randn(1000),
            torch.tensor(
                [torch.nan, torch.inf, -torch.inf, 0.0, -0.0, 1.00390625, 1.01171875, 3.4e38, 1e-40]
            ),
        ]
    )
    x = torch.cat([x, torch.zeros(1024 - len(x))])
    y = torch.zeros(1024).bfloat16()
    with guard():
        kernels.copy_as_bfloat16[(1,)](x, y, BLOCK=1024)
    expected = x.bfloat16()
    assert torch.equal(y.isnan(), expected.isnan())
    assert torch.equal(y.nan_to_num(0).view(torch.int16), expected.nan_to_num(0).view(torch.int16))


@interpreted
def test_descriptors() -> None:
    x, y = torch.randn(37, 48), torch.full((37, 48), torch.nan)
    with guard("reverse") as counted:
        kernels.copy_tiles[(3,)](x, y, 37, 48, BM=16, BN=16)
    assert torch.equal(x, y)
    assert (counted.read, counted.written, counted.launches) == (37 * 48 * 4, 37 * 48 * 4, 1)


@interpreted
def test_bytes_are_counted_once_per_instruction() -> None:
    x, y = torch.randn(100), torch.full((100,), torch.nan)
    with guard() as counted:
        for _ in range(2):
            kernels.scale[(2,)](x, y, 100, BLOCK=64, FAULTY=False)
    assert (counted.read, counted.written, counted.launches) == (800, 800, 2)
    with guard() as counted:
        collide(False)
    assert counted.written == 8 * 4


@interpreted
def test_unwritten_memory() -> None:
    x, y = torch.empty(100), torch.empty(100)
    with (
        guard(unwritten=[x, y]),
        pytest.raises(Unwritten, match=r"element 0 of x \[100\], which nobody has written"),
    ):
        kernels.scale[(2,)](x, y, 100, BLOCK=64, FAULTY=False)
    with guard(unwritten=[y]):
        kernels.scale[(2,)](x, y, 100, BLOCK=64, FAULTY=False)
        kernels.scale[(2,)](y, x, 100, BLOCK=64, FAULTY=False)


@interpreted
@pytest.mark.parametrize(
    ("order", "arrived"), [("forward", [0, 1, 2, 3]), ("reverse", [3, 2, 1, 0]), (3, None)]
)
def test_programs_run_in_the_order_asked_for(order: str | int, arrived: list[int] | None) -> None:
    turns = []
    for _ in range(2):
        counter, turn = torch.zeros(1, dtype=torch.int32), torch.full((2, 1, 2), -1, dtype=torch.int32)
        with guard(order):
            kernels.arrive[(2, 1, 2)](counter, turn)
        turns.append(turn.flatten().tolist())
    assert turns[0] == turns[1]
    assert sorted(turns[0]) == [0, 1, 2, 3]
    assert arrived is None or turns[0] == arrived


@interpreted
def test_an_unknown_order_is_refused() -> None:
    with (
        pytest.raises(ValueError, match="'backward', expected 'forward', 'reverse' or a seed"),
        guard("backward"),
    ):
        pass


@interpreted
def test_the_interpreter_is_put_back() -> None:
    from triton.runtime import interpreter

    before = dict(vars(interpreter.InterpreterBuilder)), interpreter._implicit_cvt
    with guard(), pytest.raises(OutOfBounds):
        scale(True)
    assert (dict(vars(interpreter.InterpreterBuilder)), interpreter._implicit_cvt) == before
