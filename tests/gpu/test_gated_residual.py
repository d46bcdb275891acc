"""The gated residual's kernels against float64: result and every gradient."""

from __future__ import annotations

import pytest
import torch
from gradients import assert_as_exact_as_pytorch, random, result_and_gradients

pytest.importorskip("triton", reason="the GPU's gated_residual needs triton")

from guard import guard

from fastwm import ops, reference

SIZES = {  # shape of x, rows of a group's gate
    "one row": ((1, 1), 1),
    "rows of their own": ((5, 1, 33), 1),
    "two tiles of rows": ((2, 9, 130), 9),
    "two tiles of rows that share": ((2, 11, 200), 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_as_exact_as_pytorch(triton_device, order, size: str, dtype: torch.dtype) -> None:
    shape, gates = SIZES[size]
    of_gate = (*shape[:-2], gates, shape[-1])
    shapes = {"x": shape, "gate": of_gate, "y": shape}
    given = {name: random(*shape, seed=i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items())}
    gradient = random(*shape, seed=9, dtype=dtype)
    with guard(order):
        found = result_and_gradients(ops.gated_residual, given, gradient, dtype, triton_device)
    assert_as_exact_as_pytorch(found, reference.gated_residual, given, gradient)


def test_other_strides(triton_device) -> None:
    def apply(function, wide):  # type: ignore[no-untyped-def]
        x, gate, y = wide.chunk(3, -1)
        return function(x, gate[:, :1], y.transpose(0, 1).contiguous().transpose(0, 1)).transpose(0, 2)

    given, gradient = {"wide": random(4, 3, 60, seed=1)}, random(20, 3, 4, seed=2)
    with guard():
        found = result_and_gradients(
            lambda wide: apply(ops.gated_residual, wide), given, gradient, torch.float32, triton_device
        )
    assert_as_exact_as_pytorch(found, lambda wide: apply(reference.gated_residual, wide), given, gradient)
