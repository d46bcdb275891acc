"""SIGReg's statistic as an op on the CPU: the formula with sines and cosines in float64, gradients, tracing, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from close import assert_close

from fastwm import ops, reference
from fastwm.objectives import SIGReg
from fastwm.ops.sigreg import _backward, _forward, epps_pulley

SIZES = [(1, 1, 1, 1, 2), (2, 7, 3, 5, 3), (3, 65, 20, 33, 17), (1, 40, 6, 9, 18)]  # T, B, E, P, knots


def example(T: int, B: int, E: int, P: int, dtype: torch.dtype = torch.float32):
    random = torch.Generator().manual_seed(B)
    latents = 1.5 * torch.randn(T, B, E, generator=random, dtype=torch.float64) + 0.3
    directions = torch.randn(E, P, generator=random, dtype=torch.float64)
    return latents.to(dtype), (directions / directions.norm(dim=0)).to(dtype)


def formula(latents: torch.Tensor, directions: torch.Tensor, knots: int) -> torch.Tensor:
    """[T, P]: trapezoid rule over both signs of t, a sine and a cosine for each knot."""
    t = torch.linspace(-3, 3, 2 * knots - 1, dtype=latents.dtype)
    angles = (latents @ directions)[..., None] * t
    target = torch.exp(-t.square() / 2)
    distance = (angles.cos().mean(1) - target).square() + angles.sin().mean(1).square()
    return latents.shape[1] * torch.trapezoid(distance * target, dx=3 / (knots - 1))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_reference_is_the_formula(size) -> None:
    *shape, knots = size
    inputs = example(*shape, torch.float64)
    torch.testing.assert_close(
        reference.sigreg(*inputs, knots), formula(*inputs, knots), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_float32_is_as_exact_as_sines_and_cosines(size) -> None:
    *shape, knots = size
    latents, directions = example(*shape)
    latents.requires_grad_()

    def run(function, dtype: torch.dtype):
        z = latents.detach().to(dtype).requires_grad_()
        found = function(z, directions.to(dtype), knots)
        (found * weights.to(dtype)).sum().backward()
        return found.detach(), z.grad

    weights = torch.randn(shape[0], shape[3], generator=torch.Generator().manual_seed(9))
    truth, same = run(formula, torch.float64), run(formula, torch.float32)
    for name, *values in zip(
        ("statistic", "gradient"), run(ops.sigreg, torch.float32), same, truth, strict=True
    ):
        size = max(
            1.0, float(values[-1].abs().max())
        )  # differences of characteristic functions, which are 1 or less
        assert_close(name, *values, tiny=2 * torch.finfo(torch.float32).eps * size)


@pytest.mark.parametrize("knots", [2, 5, 17])
def test_gradient(knots: int) -> None:
    latents, directions = example(2, 5, 3, 4, torch.float64)
    latents.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ops.sigreg(z, directions, knots), (latents,))
    assert torch.autograd.gradcheck(lambda z: reference.sigreg(z, directions, knots), (latents,))


def test_no_gradient_flows_to_the_directions() -> None:
    latents, directions = example(1, 4, 3, 2)
    directions.requires_grad_()
    ops.sigreg(latents.requires_grad_(), directions).sum().backward()
    assert directions.grad is None
    assert latents.grad is not None


def test_the_objective_is_the_mean_over_its_directions() -> None:
    latents, _ = example(2, 9, 5, 1)
    found = SIGReg(projections=31)(latents, generator=torch.Generator().manual_seed(5))
    directions = torch.randn(5, 31, generator=torch.Generator().manual_seed(5))
    truth = formula(latents.double(), (directions / directions.norm(dim=0)).double(), 17).mean()
    assert found.item() == pytest.approx(truth.item(), rel=1e-5)


def test_registered() -> None:
    samples = torch.randn(2, 7, 5)
    torch.library.opcheck(torch.ops.fastwm.sigreg.default, (samples, 17))
    found, pull = _forward(samples, 17)
    torch.library.opcheck(torch.ops.fastwm.sigreg_backward.default, (torch.randn_like(found), samples, pull))


def test_one_graph() -> None:
    latents, directions = example(2, 7, 3, 5)

    def gradient(function) -> tuple[torch.Tensor, torch.Tensor]:
        z = latents.clone().requires_grad_()
        found = function(z, directions)
        found.square().sum().backward()
        return found.detach(), z.grad

    compiled = torch.compile(ops.sigreg, fullgraph=True, backend="aot_eager")
    for eager, traced in zip(gradient(ops.sigreg), gradient(compiled), strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-6, atol=1e-7)


Z, D = torch.zeros(2, 3, 4), torch.zeros(4, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Z[0], D), ValueError, r"latents has shape \(3, 4\), expected \[T, B, E\]"),
        ((Z[:, :0], D), ValueError, r"latents has shape \(2, 0, 4\)"),
        ((None, D), TypeError, "latents is NoneType"),
        (
            (Z.half(), D.half()),
            TypeError,
            "latents is torch.float16, expected torch.float32 or torch.float64",
        ),
        ((Z, D[0]), ValueError, r"directions has shape \(5,\), expected \[E, P\]"),
        ((Z, D[:3]), ValueError, r"directions has shape \(3, 5\), expected \(4, 5\)"),
        ((Z, D.double()), TypeError, "directions is torch.float64, expected torch.float32"),
        ((Z, D, 1), ValueError, "knots is 1, expected 2 <= knots"),
        ((Z, D, 17.0), TypeError, "knots is 17.0, expected an integer"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message: str) -> None:
    with pytest.raises(error, match=message):
        ops.sigreg(*arguments)


def test_what_is_not_finite_is_nan() -> None:
    for value in (math.nan, math.inf):
        samples = torch.zeros(1, 3, 2)
        samples[0, 1, 0] = value
        found = epps_pulley(samples)
        assert found[0, 0].isnan()
        assert found[0, 1].isfinite()


def test_backward_refuses_a_gradient_of_another_shape() -> None:
    samples = torch.zeros(1, 3, 2)
    _, pull = _forward(samples, 17)
    with pytest.raises(ValueError, match=r"gradient has shape \(2,\), expected \(1, 2\)"):
        _backward(torch.zeros(2), samples, pull)
