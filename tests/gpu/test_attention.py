"""Attention's kernels in Triton against float64: result and every gradient, windows of few tokens and of many."""

from __future__ import annotations

import pytest
import torch
from gradients import assert_as_exact_as_pytorch, random, result_and_gradients

pytest.importorskip("triton", reason="the GPU's attention needs triton")

from functools import partial

from guard import guard

from fastwm import ops, reference
from fastwm.triton import attention as kernels

SIZES = {  # R, n, H, D, tokens of a frame
    "one token": (2, 1, 1, 16, 1),
    "LeWM's window": (3, 3, 2, 24, 1),
    "several tiles of windows": (9, 3, 2, 16, 1),
    "frames in a window": (2, 7, 1, 16, 3),
    "all see all": (1, 32, 2, 20, 0),
    "two tiles of queries": (1, 70, 1, 16, 1),
    "frames across tiles": (1, 66, 1, 16, 20),
}


def pytorch(q, k, v, frame_tokens):  # type: ignore[no-untyped-def]
    return reference.attention(q, k, v, frame_tokens, q.shape[-1] ** -0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_as_exact_as_pytorch(triton_device, size: str, dtype: torch.dtype) -> None:
    R, n, H, D, frame_tokens = SIZES[size]
    given = {name: random(R, n, H, D, seed=i, dtype=dtype) for i, name in enumerate("qkv")}
    gradient = random(R, n, H, D, seed=9, dtype=dtype)
    with guard():
        found = result_and_gradients(
            partial(ops.attention, frame_tokens=frame_tokens), given, gradient, dtype, triton_device
        )
    assert_as_exact_as_pytorch(found, partial(pytorch, frame_tokens=frame_tokens), given, gradient)


def test_the_order_of_programs_changes_nothing(triton_device, order) -> None:
    q, k, v = (random(9, 5, 2, 16, seed=i).to(triton_device) for i in range(3))
    with guard():
        expected = kernels.forward(q, k, v, 1, 0.25)
    with guard(order):
        found = kernels.forward(q, k, v, 1, 0.25)
        gradients = kernels.backward(q, q, k, v, *found, 1, 0.25)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    with guard():
        for one, other in zip(gradients, kernels.backward(q, q, k, v, *expected, 1, 0.25), strict=True):
            assert torch.equal(one, other)


def test_parts_of_one_projection(triton_device) -> None:
    def apply(function, wide):  # type: ignore[no-untyped-def]
        q, k, v = wide.unflatten(-1, (3, 2, 8)).unbind(2)
        return function(q, k, v)

    given, gradient = {"wide": random(2, 5, 48, seed=1)}, random(2, 5, 2, 8, seed=2)
    with guard():
        found = result_and_gradients(
            lambda wide: apply(ops.attention, wide), given, gradient, torch.float32, triton_device
        )
    assert_as_exact_as_pytorch(
        found, lambda wide: apply(partial(pytorch, frame_tokens=1), wide), given, gradient
    )


def test_a_nan_stays_in_its_window(triton_device) -> None:
    q, k, v = (random(4, 3, 1, 16, seed=i).to(triton_device) for i in range(3))
    k[2, 1] = float("nan")
    found, _ = kernels.forward(q, k, v, 1, 0.25)
    assert found[2, 1:].isnan().all()
    assert found[2, :1].isfinite().all()
    assert found[[0, 1, 3]].isfinite().all()
