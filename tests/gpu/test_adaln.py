"""AdaLN's kernels against float64: result and every gradient, rows with a modulation of their own and rows that share one."""

from __future__ import annotations

import functools

import pytest
import torch
from gradients import assert_as_exact_as_pytorch, random, result_and_gradients

pytest.importorskip("triton", reason="the GPU's adaln needs triton")

from guard import guard

import fastwm.triton.adaln as kernels
from fastwm import ops, reference

SIZES = {  # shape of x, rows of a group's modulation
    "one row": ((1, 1), 1),
    "rows of their own": ((5, 1, 33), 1),
    "two tiles of rows": ((2, 9, 130), 9),
    "two tiles of rows that share": ((2, 11, 200), 1),
    "wide": ((2, 2, 1500), 1),
}


def inputs(
    shape: tuple[int, ...], modulations: int, affine: bool, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    of_modulation = (*shape[:-2], modulations, shape[-1])
    shapes = {"x": shape, "shift": of_modulation, "scale": of_modulation}
    if affine:
        shapes |= {"gain": shape[-1:], "bias": shape[-1:]}
    return {name: random(*size, seed=i, dtype=dtype) for i, (name, size) in enumerate(shapes.items())}


@pytest.mark.parametrize("affine", [False, True], ids=["modulated", "second norm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_as_exact_as_pytorch(triton_device, order, size: str, dtype: torch.dtype, affine: bool) -> None:
    shape, modulations = SIZES[size]
    given = inputs(shape, modulations, affine, dtype)
    gradient = random(*shape, seed=9, dtype=dtype)
    with guard(order):
        found = result_and_gradients(ops.adaln, given, gradient, dtype, triton_device)
    assert_as_exact_as_pytorch(found, reference.adaln, given, gradient)


@pytest.mark.parametrize("modulations", [1, 13])
def test_programs_that_take_several_parts(triton_device, order, monkeypatch, modulations: int) -> None:
    """Two programs for thirteen rows or five groups: each adds up what it has taken."""
    monkeypatch.setattr(kernels, "PARTS", 2)
    monkeypatch.setattr(kernels, "tile", lambda W: {"ROWS": 2, "COLUMNS": 32, "num_warps": 1})
    given = inputs((5, 13, 20), modulations, True, torch.float32)
    gradient = random(5, 13, 20, seed=9)
    with guard(order):
        found = result_and_gradients(ops.adaln, given, gradient, torch.float32, triton_device)
    assert_as_exact_as_pytorch(found, reference.adaln, given, gradient)


def test_parts_of_one_projection_and_other_strides(triton_device) -> None:
    """Shift and scale as chunks of one linear layer's result, x with its rows apart, a gradient with columns apart."""
    modulation, x = random(4, 1, 3 * 20, seed=1), random(4, 3, 30, seed=2)
    gradient = random(20, 4, 3, seed=3)

    def apply(function, modulation, x):  # type: ignore[no-untyped-def]
        shift, _, scale = modulation.chunk(3, -1)
        return function(x[..., 5:25], shift, scale).permute(2, 0, 1)

    given = {"modulation": modulation, "x": x}
    with guard():
        found = result_and_gradients(
            functools.partial(apply, ops.adaln), given, gradient, torch.float32, triton_device
        )
    assert_as_exact_as_pytorch(found, functools.partial(apply, reference.adaln), given, gradient)


def test_a_row_is_the_same_wherever_it_stands(triton_device) -> None:
    given = {name: x.to(triton_device) for name, x in inputs((40, 1, 200), 1, True, torch.float32).items()}
    alone = given | {name: given[name][17:18] for name in ("x", "shift", "scale")}
    assert torch.equal(ops.adaln(**given)[17:18].cpu(), ops.adaln(**alone).cpu())


def test_a_nan_stays_in_its_row(triton_device) -> None:
    given = {name: x.to(triton_device) for name, x in inputs((3, 4, 20), 1, True, torch.float32).items()}
    given["x"][1, 2, 3] = float("nan")
    found = ops.adaln(**given).cpu()
    assert found[1, 2].isnan().all()
    found[1, 2] = 0
    assert found.isfinite().all()


def test_each_row_is_read_once(triton_device) -> None:
    """Forward: x, shift and scale are read and y is written, with two statistics of each row."""
    given = {name: x.to(triton_device) for name, x in inputs((16, 1, 256), 1, False, torch.float32).items()}
    with guard() as counted:
        ops.adaln(**given)
    if counted.launches:
        assert counted.read == 3 * 16 * 256 * 4
        assert counted.written == 16 * 256 * 4 + 2 * 16 * 4


def test_dtypes_without_a_kernel_are_refused(triton_device) -> None:
    x = torch.zeros(2, 8, dtype=torch.float64, device=triton_device)
    with pytest.raises(TypeError, match=r"x is torch\.float64, expected torch\.float32 or torch\.bfloat16"):
        ops.adaln(x, x, x)
    x = torch.zeros(1, 20000, device=triton_device)
    with pytest.raises(ValueError, match="x has rows of 20000 numbers, expected at most 16384"):
        ops.adaln(x, x, x)
