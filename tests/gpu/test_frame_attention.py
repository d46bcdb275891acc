"""The kernel of frame attention against float64: frames of odd sizes, shared and own, in tiles that cross them."""

from __future__ import annotations

import pytest
import torch
from close import assert_close
from gradients import random

pytest.importorskip("triton", reason="the GPU's frame_attention needs triton")

from guard import guard

from fastwm import ops, reference
from fastwm.ops.frame_attention import in_chunks

SIZES = {  # tokens of a frame; frames that are new, own, shared; numbers of a head
    "one frame": (7, 1, 1, 0, 8),
    "earlier frames": (7, 1, 3, 0, 24),
    "context": (20, 1, 2, 2, 20),
    "several new frames": (20, 2, 3, 1, 16),
    "tiles cross frames": (36, 2, 2, 2, 16),
    "wide heads": (7, 1, 1, 1, 88),
}


def example(size: str, dtype: torch.dtype) -> tuple:
    """Four candidates of two environments, one head; arguments and the tokens of a frame."""
    N, new, own, shared, D = SIZES[size]
    shapes = [(4, new * N, 1, D), (4, own * N, 1, D), (4, own * N, 1, D), *[(2, shared * N, 1, D)] * 2]
    return [random(*shape, seed=i, dtype=dtype) if shape[1] else None for i, shape in enumerate(shapes)], N


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_as_exact_as_pytorch(triton_device, size: str, dtype: torch.dtype) -> None:
    given, N = example(size, dtype)
    scale = given[0].shape[-1] ** -0.5
    with guard():
        found = ops.frame_attention(
            *(None if x is None else x.to(triton_device) for x in given), frame_tokens=N
        )
    truth = reference.frame_attention(*(None if x is None else x.double() for x in given), N, scale)
    assert_close(size, found.cpu(), reference.frame_attention(*given, N, scale), truth)


def test_the_order_of_programs_changes_nothing(triton_device, order) -> None:
    given, N = example("several new frames", torch.float32)
    given = [x.to(triton_device) for x in given]
    with guard():
        expected = ops.frame_attention(*given, frame_tokens=N)
    with guard(order):
        assert torch.equal(ops.frame_attention(*given, frame_tokens=N), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_argument_has_strides_of_its_own(triton_device, dtype: torch.dtype) -> None:
    """Two heads; between the numbers of every argument lie others, NaN, as many as no other argument has."""
    N, D, shapes = 7, 20, [(4, 7), (4, 14), (4, 14), (2, 14), (2, 14)]
    dense = [random(rows, tokens, 2, D, seed=i, dtype=dtype) for i, (rows, tokens) in enumerate(shapes)]
    given = []
    for i, x in enumerate(dense):
        rows, tokens = x.shape[:2]
        apart = torch.full((rows, tokens + i, 2 + i, D + 4 * i), torch.nan, dtype=dtype, device=triton_device)
        given.append(apart[:, :tokens, :2, :D].copy_(x))
    with guard():
        found = ops.frame_attention(*given, frame_tokens=N)
    truth = reference.frame_attention(*(x.double() for x in dense), N, D**-0.5)
    assert_close("strides", found.cpu(), reference.frame_attention(*dense, N, D**-0.5), truth)


def test_every_number_is_written(triton_device, monkeypatch) -> None:
    given, N = example("tiles cross frames", torch.float32)
    empty = torch.empty

    def poisoned(*of, **how):  # type: ignore[no-untyped-def]
        made = empty(*of, **how)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", poisoned)
    found = ops.frame_attention(*(x.to(triton_device) for x in given), frame_tokens=N)
    assert found.isfinite().all()


def test_parts_of_one_projection(triton_device) -> None:
    wide = random(2, 14, 3, 2, 16, seed=1).to(triton_device)
    query, keys, values = wide.unbind(2)
    with guard():
        found = ops.frame_attention(query[:, 7:], keys, values, frame_tokens=7)
        dense = (x.contiguous() for x in (query[:, 7:], keys, values))
        assert torch.equal(found, ops.frame_attention(*dense, frame_tokens=7))


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_candidates_in_parts_are_all_of_them(triton_device, chunk: int) -> None:
    given, N = example("context", torch.float32)
    given = [x.to(triton_device) for x in given]

    def one(*tensors):  # type: ignore[no-untyped-def]
        return ops.frame_attention(*tensors, frame_tokens=N)

    assert torch.equal(in_chunks(one, *given, chunk=chunk), one(*given))
