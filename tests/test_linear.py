"""Linear layers by our own products: values and gradients beside PyTorch's, sizes that fill no block, refusals."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from gradients import assert_as_exact_as_pytorch, random, result_and_gradients

from fastwm import ops
from fastwm.engine import backend
from fastwm.engine.backend import cpu_module

module = importlib.import_module("fastwm.ops.linear")  # `ops.linear` is the function
_product = module._product
SIZES = [(1, 1, 1), (5, 33, 7), (13, 31, 600), (37, 130, 513), (192, 64, 1025), (400, 129, 66)]  # M, N, K


@pytest.fixture
def avx512(monkeypatch: pytest.MonkeyPatch) -> str:
    found = [name for name in backend.isas() if name.startswith("avx512")]
    if not found:
        pytest.skip("this processor has no AVX-512: PyTorch's products run")
    monkeypatch.setenv("FASTWM_ISA", found[0])
    return found[0]


@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize(("M", "N", "K"), [*SIZES, (3, 40, 0)])
def test_products_of_every_instruction_set(
    M: int, N: int, K: int, turned: tuple[bool, bool], isa: str
) -> None:
    """Against float64; with two threads and one the same bits."""
    a, b, bias = random(M, K), random(K, N, seed=1), random(N, seed=2)
    truth = a.double() @ b.double() + bias
    a, b = (x.T.contiguous() if t else x for x, t in zip((a, b), turned, strict=True))
    found = []
    for threads in (1, 2):
        c, workspace = torch.full((M, N), torch.nan), torch.empty(threads, cpu_module().LINEAR_WORKSPACE)
        pointers = (x.data_ptr() for x in (a, b, bias, c, workspace))
        cpu_module().linear(isa, *pointers, M, N, K, *turned, False, threads)
        found.append(c)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0].double(), truth, rtol=1e-5, atol=1e-5 * max(1, K) ** 0.5)


@pytest.mark.parametrize("turned", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize(("M", "N", "K"), [*SIZES, (3, 40, 0), (30, 45, 255)])
def test_products_of_rounded_numbers(M: int, N: int, K: int, turned: tuple[bool, bool], isa: str) -> None:
    """bfloat16: exact products of the rounded numbers, summed in float32."""
    a, b = random(M, K), random(K, N, seed=1)
    truth = a.bfloat16().double() @ b.bfloat16().double()
    a, b = (x.T.contiguous() if t else x for x, t in zip((a, b), turned, strict=True))
    found = []
    for threads in (1, 2):
        c, workspace = torch.full((M, N), torch.nan), torch.empty(threads, cpu_module().LINEAR_WORKSPACE)
        pointers = [x.data_ptr() for x in (a, b)] + [0, c.data_ptr(), workspace.data_ptr()]
        cpu_module().linear(isa, *pointers, M, N, K, *turned, True, threads)
        found.append(c)
    assert torch.equal(*found)
    torch.testing.assert_close(found[0].double(), truth, rtol=1e-5, atol=1e-5 * max(1, K) ** 0.5)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize(("M", "N", "K"), SIZES)
def test_bfloat16_is_what_autocast_does(
    M: int, N: int, K: int, kernels: bool, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By our products and, without our kernels, by PyTorch's."""
    monkeypatch.setenv("FASTWM_ISA", isa)
    if not kernels:
        monkeypatch.setenv("FASTWM_BACKEND", "torch")
    given = {"x": random(M, K), "weight": random(N, K, seed=1), "bias": random(N, seed=2)}
    gradient = random(M, N, seed=3)
    found = result_and_gradients(lambda **g: ops.linear(**g, bfloat16=True), given, gradient, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = result_and_gradients(lambda **g: F.linear(**g).float(), given, gradient, torch.float32)
    truth = result_and_gradients(F.linear, given, gradient, torch.float64)
    for name, exact in truth.items():
        allowed = (expected[name] - exact).abs().max()
        assert (found[name] - exact).abs().max() <= 1.5 * allowed + 2**-10 * exact.abs().max(), name


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("M", "N", "K"), SIZES)
def test_as_exact_as_pytorch(M: int, N: int, K: int, bias: bool, avx512: str) -> None:
    given = {"x": random(1, M, K), "weight": random(N, K, seed=1)} | (
        {"bias": random(N, seed=2)} if bias else {}
    )
    gradient = random(1, M, N, seed=3)
    found = result_and_gradients(ops.linear, given, gradient, torch.float32)
    assert_as_exact_as_pytorch(found, F.linear, given, gradient)


def test_our_products_run_where_they_are_better(avx512: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(module, "_product", lambda *given: calls.append(given) or _product(*given))
    x, weight = random(40, 30), random(20, 30, seed=1)
    ops.linear(x, weight)
    assert len(calls) == 1
    ops.linear(x.double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.linear(x, weight).dtype == torch.bfloat16
    monkeypatch.setenv("FASTWM_ISA", "baseline")
    ops.linear(x, weight)
    assert len(calls) == 1


def test_only_gradients_that_are_wanted(avx512: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(module, "_product", lambda *given: calls.append(given) or _product(*given))
    frozen, weight = random(6, 5), random(4, 5, seed=1).requires_grad_()
    ops.linear(frozen, weight).sum().backward()
    assert len(calls) == 2  # the result and the weight's gradient
    torch.testing.assert_close(weight.grad, frozen.sum(0).expand(4, 5))


def test_strides_and_no_rows_at_all(avx512: str) -> None:
    x, weight = random(5, 7, 3).transpose(0, 2), random(11, 5, seed=1)
    torch.testing.assert_close(ops.linear(x, weight), F.linear(x, weight))
    turned = random(5, 11, seed=1).T
    torch.testing.assert_close(ops.linear(x, turned), F.linear(x, turned))
    assert ops.linear(torch.ones(2, 0, 5), weight).shape == (2, 0, 11)


@pytest.mark.parametrize("bfloat16", [True, False])
def test_no_outputs_and_no_inputs(bfloat16: bool) -> None:
    for K, N in ((4, 0), (0, 3)):
        x, weight = torch.ones(3, K, requires_grad=True), torch.ones(N, K, requires_grad=True)
        found = ops.linear(x, weight, torch.full((N,), 2.0), bfloat16=bfloat16)
        assert torch.equal(found, torch.full((3, N), 2.0))
        found.sum().backward()
        assert torch.equal(x.grad, torch.zeros(3, K))
        assert torch.equal(weight.grad, torch.full((N, K), 3.0))


def test_a_negation_that_is_still_to_be_made() -> None:
    x, one = torch.tensor([[3.0]]), torch.ones(1, 1)
    negative = torch._neg_view(x)
    assert negative.is_neg()
    for given in ((negative, one), (one, negative), (torch.zeros(1, 1), one, torch._neg_view(x[0]))):
        assert ops.linear(*given, bfloat16=True).item() == -3


def test_not_a_number_reaches_its_row_alone(avx512: str) -> None:
    x, weight = random(30, 40), random(50, 40, seed=1)
    x[7, 3] = torch.nan
    found = ops.linear(x, weight)
    assert found[7].isnan().all()
    assert found.isnan().sum() == 50


def test_traced_and_compiled(avx512: str) -> None:
    given = random(6, 5), random(4, 5, seed=1), random(4, seed=2)
    torch.library.opcheck(torch.ops.fastwm.product.default, (*given, False, True, False))
    expected = F.linear(*given)
    torch.testing.assert_close(torch.compile(ops.linear, backend="eager")(*given), expected)


def test_refusals() -> None:
    x, weight = torch.ones(3, 4), torch.ones(5, 4)
    for wrong, message in (
        ((x, torch.ones(5, 3)), r"weight has shape \(5, 3\), expected \(5, 4\)"),
        ((x, torch.ones(5)), r"weight is \[5\], expected a tensor \[N, 4\]"),
        ((x, weight, torch.ones(4)), r"bias has shape \(4,\), expected \(5,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.linear(*wrong)
    with pytest.raises(TypeError, match=r"weight is torch.float64, expected torch.float32"):
        ops.linear(x, weight.double())
    with pytest.raises(TypeError, match=r"x is torch.float64, expected torch.float32 for bfloat16=True"):
        ops.linear(x.double(), weight.double(), bfloat16=True)
    with pytest.raises(TypeError, match="x is list"):
        ops.linear([1.0], weight)
