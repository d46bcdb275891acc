"""The gated residual as a torch op on the CPU. Its kernels: tests/gpu/test_gated_residual.py."""

from __future__ import annotations

import pytest
import torch
from gradients import random, result_and_gradients

from fastwm import ops


def arguments(gates: int = 3, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    shapes = {"x": (2, 3, 5), "gate": (2, gates, 5), "y": (2, 3, 5)}
    return {name: random(*shape, seed=i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items())}


def test_is_its_formula() -> None:
    found = ops.gated_residual(
        torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0]]), torch.tensor([[-1.0, 9.0]])
    )
    assert found.tolist() == [[-2.0, 2.0]]


@pytest.mark.parametrize("gates", [1, 3])
def test_gradients_are_those_of_finite_differences(gates: int) -> None:
    given = arguments(gates, torch.float64)
    assert torch.autograd.gradcheck(ops.gated_residual, tuple(x.requires_grad_() for x in given.values()))


def test_opcheck() -> None:
    x, gate, y = arguments(1).values()
    torch.library.opcheck(torch.ops.fastwm.gated_residual_forward.default, (x, gate, y))
    torch.library.opcheck(torch.ops.fastwm.gated_residual_backward.default, (x, gate, y))


def test_compiles_without_a_graph_break_and_with_gradients() -> None:
    compiled = torch.compile(ops.gated_residual, fullgraph=True, backend="aot_eager")
    given, gradient = arguments(1), random(2, 3, 5, seed=9)
    eager = result_and_gradients(ops.gated_residual, given, gradient, torch.float32)
    for name, x in result_and_gradients(compiled, given, gradient, torch.float32).items():
        assert torch.equal(x, eager[name]), name


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": None}, TypeError, "x is NoneType"),
        ({"x": torch.zeros(2, 3, 0)}, ValueError, "none of them 0"),
        ({"gate": torch.zeros(2, 2, 5)}, ValueError, r"gate has shape \(2, 2, 5\), expected \(2, 3, 5\)"),
        ({"y": torch.zeros(2, 1, 5)}, ValueError, r"y has shape \(2, 1, 5\), expected \(2, 3, 5\)"),
        ({"y": torch.zeros(2, 3, 5).double()}, TypeError, r"y is torch\.float64, expected torch\.float32"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, message) -> None:
    with pytest.raises(error, match=message):
        ops.gated_residual(**(arguments() | change))
