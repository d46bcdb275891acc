"""Attention as a torch op on the CPU. Its kernels: tests/gpu/test_attention.py, test_attention_cuda.py."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from gradients import assert_as_exact_as_pytorch, random, result_and_gradients

from fastwm import ops, reference


def arguments(n: int = 6, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {name: random(2, n, 3, 8, seed=i, dtype=dtype) for i, name in enumerate("qkv")}


@pytest.mark.parametrize(
    ("frame_tokens", "mask"), [(0, "all"), (1, "causal"), (2, "frames"), (4, "frames"), (9, "all")]
)
def test_is_pytorchs_with_the_mask_written_out(frame_tokens: int, mask: str) -> None:
    given = arguments(6, torch.float64)
    frame = torch.arange(6) // (frame_tokens or 6)
    seen = {"all": torch.ones(6, 6).bool(), "causal": torch.ones(6, 6).bool().tril()}
    q, k, v = (x.transpose(1, 2) for x in given.values())
    expected = F.scaled_dot_product_attention(
        q, k, v, attn_mask=seen.get(mask, frame[:, None] >= frame[None])
    )
    found = ops.attention(**given, frame_tokens=frame_tokens)
    torch.testing.assert_close(found, expected.transpose(1, 2), rtol=1e-12, atol=1e-12)


def test_the_scale_is_an_argument() -> None:
    q, k, v = arguments().values()
    torch.testing.assert_close(ops.attention(q, k, v, scale=0.5), ops.attention(q * 0.5 * 8**0.5, k, v))


@pytest.mark.parametrize("frame_tokens", [0, 1, 2])
def test_gradients_are_those_of_finite_differences(frame_tokens: int) -> None:
    given = [x[:1, :4, :2, :3].clone().requires_grad_() for x in arguments(6, torch.float64).values()]
    assert torch.autograd.gradcheck(lambda *x: ops.attention(*x, frame_tokens=frame_tokens), given)


@pytest.mark.parametrize(
    ("R", "n", "H", "D", "frame_tokens"),
    [
        (1, 1, 1, 1, 1),
        (3, 3, 2, 64, 1),
        (2, 5, 3, 17, 0),
        (2, 31, 1, 8, 4),
        (70, 32, 2, 24, 1),
        (2, 33, 1, 8, 1),
    ],
)
def test_kernels_are_as_exact_as_pytorch(R, n, H, D, frame_tokens, isa: str, monkeypatch) -> None:
    """The last has more tokens than the kernels take."""
    monkeypatch.setenv("FASTWM_ISA", isa)
    qkv = random(R, n, 3, H, D)  # parts of one projection

    def of(function):
        return lambda q, k, v: function(q, k, v, frame_tokens=frame_tokens, scale=0.7 * D**-0.5)

    given = dict(zip("qkv", qkv.unbind(2), strict=True))
    gradient = random(R, n, H, D, seed=9)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(result_and_gradients(of(ops.attention), given, gradient, torch.float32))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, runs[1][name]) for name, x in runs[0].items())
    assert_as_exact_as_pytorch(runs[0], of(reference.attention), given, gradient)
    assert torch.equal(of(ops.attention)(*qkv.unbind(2)), runs[0]["result"])  # strided as they come


def test_what_is_not_finite_stays_in_its_window_and_is_not_seen_before(isa: str, monkeypatch) -> None:
    monkeypatch.setenv("FASTWM_ISA", isa)
    given = arguments(5)
    clean = ops.attention(**given)
    given["k"][1, 3, 1, 2] = float("nan")
    found = ops.attention(**given)
    assert found[1, 3:, 1].isnan().all()
    found[1, 3:, 1] = clean[1, 3:, 1]
    assert torch.equal(found, clean)


def test_opcheck() -> None:
    q, k, v = arguments().values()
    out, sums = torch.ops.fastwm.attention_forward(q, k, v, 1, 0.3, True)
    torch.library.opcheck(torch.ops.fastwm.attention_forward.default, (q, k, v, 1, 0.3, True))
    torch.library.opcheck(torch.ops.fastwm.attention_backward.default, (q, q, k, v, out, sums, 1, 0.3))


def test_compiles_without_a_graph_break_and_with_gradients() -> None:
    compiled = torch.compile(ops.attention, fullgraph=True, backend="aot_eager")
    given, gradient = arguments(), random(2, 6, 3, 8, seed=9)
    eager = result_and_gradients(ops.attention, given, gradient, torch.float32)
    for name, x in result_and_gradients(compiled, given, gradient, torch.float32).items():
        assert torch.equal(x, eager[name]), name


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"q": None}, TypeError, "q is NoneType"),
        ({"q": torch.zeros(2, 3, 4)}, ValueError, r"q has shape \(2, 3, 4\), expected \[R, n, H, D\]"),
        ({"q": torch.zeros(2, 6, 3, 8).int()}, TypeError, "q is torch.int32"),
        (
            {"k": torch.zeros(2, 5, 3, 8)},
            ValueError,
            r"k has shape \(2, 5, 3, 8\), expected \(2, 6, 3, 8\)",
        ),
        ({"v": torch.zeros(2, 6, 3, 8).double()}, TypeError, r"v is torch\.float64, expected torch\.float32"),
        ({"frame_tokens": -1}, ValueError, "frame_tokens is -1"),
        ({"scale": -1.0}, ValueError, "scale is -1.0"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, message) -> None:
    with pytest.raises(error, match=message):
        ops.attention(**(arguments() | change))
