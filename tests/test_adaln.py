"""AdaLN as a torch op on the CPU: its formula, kernels, gradients, tracing, refusals. A GPU's: tests/gpu/test_adaln.py."""

from __future__ import annotations

import pytest
import torch
from gradients import assert_as_exact_as_pytorch, random, result_and_gradients

from fastwm import ops, reference
from fastwm.models.predictor import AdaLNBlock


def arguments(shared: bool = False, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    shapes = {"x": (2, 3, 5), "shift": (2, 1 if shared else 3, 5), "gain": (5,), "bias": (5,)}
    shapes["scale"] = shapes["shift"]
    return {name: random(*shape, seed=i, dtype=dtype) for i, (name, shape) in enumerate(shapes.items())}


def test_is_the_first_half_of_a_block_of_the_predictor() -> None:
    """norm1, modulation and the norm of the attention, as fastwm/models/predictor.py writes them."""
    block = AdaLNBlock(width=8, heads=1, head_dim=8, mlp_dim=4, dropout=0.0)
    torch.nn.init.normal_(block.attention.norm.weight, generator=torch.Generator().manual_seed(0))
    x, shift, scale = (random(2, 3, 8, seed=i) for i in range(3))
    expected = block.attention.norm(block.norm1(x) * (1 + scale) + shift)
    norm = block.attention.norm
    torch.testing.assert_close(ops.adaln(x, shift, scale, norm.weight, norm.bias), expected)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_are_those_of_finite_differences(shared: bool, affine: bool) -> None:
    given = arguments(shared, torch.float64)
    names = ["x", "shift", "scale", *(["gain", "bias"] if affine else [])]
    assert torch.autograd.gradcheck(ops.adaln, tuple(given[name].requires_grad_() for name in names))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shared", [False, True])
def test_as_exact_as_pytorch(shared: bool, dtype: torch.dtype) -> None:
    given, gradient = arguments(shared, dtype), random(2, 3, 5, seed=9, dtype=dtype)
    found = result_and_gradients(ops.adaln, given, gradient, dtype)
    if dtype == torch.bfloat16:  # sums of gradients in bfloat16 are a few roundings off, whoever adds them up
        found = {"result": found["result"]}
        truth = reference.adaln(**{name: x.double() for name, x in given.items()})
        torch.testing.assert_close(found["result"].double(), truth, rtol=0.03, atol=0.06)
        return
    assert_as_exact_as_pytorch(found, reference.adaln, given, gradient)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("rows", "shared"),
    [((1, 1, 1), False), ((7, 3, 17), False), ((5, 3, 33), True), ((3, 40, 192), True), ((70, 64), False)],
)
def test_kernels_are_as_exact_as_pytorch(rows, shared: bool, affine: bool, isa: str, monkeypatch) -> None:
    monkeypatch.setenv("FASTWM_ISA", isa)
    of = (*rows[:-2], 1, rows[-1]) if shared else rows
    shapes = {"x": rows, "shift": of, "scale": of} | (
        {"gain": rows[-1:], "bias": rows[-1:]} if affine else {}
    )
    given = {name: random(*shape, seed=i) + 0.5 for i, (name, shape) in enumerate(shapes.items())}
    gradient = random(*rows, seed=9)
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(result_and_gradients(ops.adaln, given, gradient, torch.float32))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(x, runs[1][name]) for name, x in runs[0].items())
    if rows[-1] > 1:  # a row of one number has no deviation
        assert_as_exact_as_pytorch(runs[0], reference.adaln, given, gradient)


def test_strided_arguments(monkeypatch) -> None:
    x, both = random(5, 4, 9).transpose(0, 1), random(4, 5, 18, seed=1)
    shift, scale = both.chunk(2, dim=-1)  # as parts of one projection come
    dense = [t.contiguous() for t in (x, shift, scale)]
    assert torch.equal(ops.adaln(x, shift, scale), ops.adaln(*dense))


@pytest.mark.parametrize("affine", [False, True])
def test_opcheck(affine: bool) -> None:
    given = arguments(shared=True)
    x, shift, scale, gain, bias = (given[name] for name in ("x", "shift", "scale", "gain", "bias"))
    if not affine:
        gain = bias = None  # type: ignore[assignment]
    torch.library.opcheck(torch.ops.fastwm.adaln_forward.default, (x, shift, scale, gain, bias, 1e-6, 1e-5))
    saved = (x, shift, scale, gain, torch.empty(0), 1e-6, 1e-5)
    torch.library.opcheck(torch.ops.fastwm.adaln_backward.default, (random(2, 3, 5), *saved))


def test_compiles_without_a_graph_break_and_with_gradients() -> None:
    compiled = torch.compile(ops.adaln, fullgraph=True, backend="aot_eager")
    given, gradient = arguments(), random(2, 3, 5, seed=9)
    eager = result_and_gradients(ops.adaln, given, gradient, torch.float32)
    for name, x in result_and_gradients(compiled, given, gradient, torch.float32).items():
        assert torch.equal(x, eager[name]), name


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": [1.0]}, TypeError, "x is list"),
        (
            {"x": torch.zeros(2, 3, 5, dtype=torch.int64)},
            TypeError,
            r"x is torch\.int64, expected a floating",
        ),
        ({"x": torch.zeros(5)}, ValueError, r"x has shape \(5,\), expected \[..., N, W\]"),
        ({"x": torch.zeros(2, 0, 5)}, ValueError, "none of them 0"),
        ({"shift": torch.zeros(2, 2, 5)}, ValueError, r"shift has shape \(2, 2, 5\), expected \(2, 3, 5\)"),
        ({"scale": torch.zeros(2, 1, 5)}, ValueError, r"scale has shape \(2, 1, 5\), expected \(2, 3, 5\)"),
        ({"scale": torch.zeros(2, 3, 5).bfloat16()}, TypeError, r"scale is torch\.bfloat16"),
        ({"gain": torch.zeros(4)}, ValueError, r"gain has shape \(4,\), expected \(5,\)"),
        ({"bias": None}, ValueError, "gain and bias come together"),
        ({"bias": torch.zeros(5, device="meta")}, ValueError, "bias is on meta"),
        ({"eps": -1.0}, ValueError, "eps is -1.0"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, message) -> None:
    with pytest.raises(error, match=message):
        ops.adaln(**(arguments() | change))
