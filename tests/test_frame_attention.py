"""Attention to shared and own earlier frames as a torch op on the CPU. Its kernel: tests/gpu/test_frame_attention.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gradients import random

from fastwm import ops
from fastwm.ops.frame_attention import chunk_candidates, in_chunks

N = 3  # tokens of a frame


def arguments(new: int = 2, own: int = 3, shared: int = 2, dtype: torch.dtype = torch.float32) -> dict:
    """4 candidates of 2 environments, 2 heads of 5; new, own, shared: frames."""
    shapes = {
        "query": (4, new * N, 2, 5),
        "own_keys": (4, own * N, 2, 5),
        "own_values": (4, own * N, 2, 5),
    }
    if shared:
        shapes |= {name: (2, shared * N, 2, 5) for name in ("shared_keys", "shared_values")}
    given = {name: random(*shape, seed=i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items())}
    return given | {"frame_tokens": N}


@pytest.mark.parametrize(("new", "own", "shared"), [(1, 1, 0), (1, 3, 2), (2, 3, 0), (3, 3, 1)])
def test_is_pytorchs_with_the_mask_written_out(new: int, own: int, shared: int) -> None:
    given = arguments(new, own, shared, torch.float64)
    for candidate in range(4):
        keys, values = given["own_keys"][candidate], given["own_values"][candidate]
        if shared:
            environment = candidate // 2
            keys = torch.cat([given["shared_keys"][environment], keys])
            values = torch.cat([given["shared_values"][environment], values])
        frame = torch.arange(len(keys)) // N
        seen = frame[None] <= frame[-new * N :, None]
        q, k, v = (x.transpose(0, 1) for x in (given["query"][candidate], keys, values))
        expected = F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(0, 1)
        found = ops.frame_attention(**given)[candidate]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    given = arguments(1, 1, 1, torch.float64)
    frame_tokens = given.pop("frame_tokens")
    leaves = [x.requires_grad_() for x in given.values()]
    assert torch.autograd.gradcheck(lambda *x: ops.frame_attention(*x, frame_tokens=frame_tokens), leaves)


def test_opcheck() -> None:
    *tensors, frame_tokens = arguments().values()
    torch.library.opcheck(torch.ops.fastwm.frame_attention.default, (*tensors, frame_tokens, 0.5))


def test_candidates_that_a_budget_holds() -> None:
    assert chunk_candidates(300, 7, 100) == 14
    assert chunk_candidates(300, 700, 100) == 1
    assert chunk_candidates(3, 7, 100) == 3
    for wrong in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="expected at least 1"):
            chunk_candidates(*wrong)


@pytest.mark.parametrize("shared", [0, 2])
def test_candidates_in_parts_keep_their_environment(shared: int) -> None:
    """Three environments of four candidates: parts end within one, at its end, and after two."""
    shapes = [(12, N, 2, 5), (12, 2 * N, 2, 5), (12, 2 * N, 2, 5), *[(3, shared * N, 2, 5)] * 2]
    given = [random(*shape, seed=i) for i, shape in enumerate(shapes) if shape[1]]
    sizes: list[int] = []

    def one(*tensors):  # type: ignore[no-untyped-def]
        sizes.append(len(tensors[0]))
        return ops.frame_attention(*tensors, frame_tokens=N)

    whole = one(*given)
    for chunk in (1, 2, 3, 4, 5, 9, 12, 40):
        sizes.clear()
        found = in_chunks(one, *given, chunk=chunk)
        torch.testing.assert_close(found, whole, rtol=1e-6, atol=1e-6)
        assert max(sizes) <= chunk
        if shared and chunk == 9:
            assert sizes == [8, 4]


def test_parts_of_nothing_or_of_no_environment_are_refused() -> None:
    x = torch.zeros
    for tensors in ((), (x(0, 2),), (x(4, 2), x(3, 2)), (x(8, 2), x(4, 2), x(2, 2))):
        with pytest.raises(
            ValueError, match=r"tensors have .* rows, expected R candidates or B environments"
        ):
            in_chunks(lambda *parts: parts[0], *tensors, chunk=2)
    with pytest.raises(ValueError, match="chunk is 0"):
        in_chunks(lambda part: part, x(4, 2), chunk=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"query": None}, TypeError, "query is NoneType"),
        (
            {"own_keys": torch.zeros(4, 9, 2, 6)},
            ValueError,
            r"own_keys has shape \(4, 9, 2, 6\), expected \(4, 9, 2, 5\)",
        ),
        ({"frame_tokens": 4}, ValueError, "query has 6 tokens, expected whole frames of 4"),
        ({"query": torch.zeros(4, 12, 2, 5)}, ValueError, "own_keys has 9 tokens, expected at least 12"),
        ({"shared_values": None}, ValueError, "shared_keys and shared_values come together"),
        (
            {"shared_keys": torch.zeros(3, 6, 2, 5), "shared_values": torch.zeros(3, 6, 2, 5)},
            ValueError,
            "shared_keys has 3 environments, expected a divisor of 4",
        ),
        ({"own_values": torch.zeros(4, 9, 2, 5).double()}, TypeError, r"own_values is torch\.float64"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, message) -> None:
    with pytest.raises(error, match=message):
        ops.frame_attention(**(arguments() | change))
