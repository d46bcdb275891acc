"""SIGReg's kernels against sines and cosines in float64: values, gradients, odd sizes, parts, the angle addition's error."""

from __future__ import annotations

import pytest
import torch
from close import assert_close

pytest.importorskip("triton", reason="these kernels need triton")

from guard import guard

from fastwm import ops
from fastwm.engine.cuda import device as gpu
from fastwm.ops.sigreg import epps_pulley
from fastwm.reference.sigreg import slope, statistic
from fastwm.triton import sigreg as kernels

SIZES = {  # T, B, P, knots
    "one sample": (1, 1, 1, 2),
    "odd": (2, 37, 33, 17),
    "even knots": (1, 9, 40, 4),
    "many knots": (1, 16, 3, 33),
    "more than a tile of the second pass": (1, 5, 130, 3),
}
UNIT = 2.0**-24


def formula(samples: torch.Tensor, knots: int) -> torch.Tensor:
    """[T, P]: trapezoid rule over both signs of t, a sine and a cosine for each knot."""
    t = torch.linspace(-3, 3, 2 * knots - 1, dtype=samples.dtype)
    angles = samples[..., None] * t
    target = torch.exp(-t.square() / 2)
    distance = (angles.cos().mean(1) - target).square() + angles.sin().mean(1).square()
    return samples.shape[1] * torch.trapezoid(distance * target, dx=3 / (knots - 1))


def example(T: int, B: int, P: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(B)
    return 1.5 * torch.randn(T, B, P, generator=random) + 0.3, torch.randn(T, P, generator=random)


def truth(samples: torch.Tensor, gradient: torch.Tensor, knots: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = samples.double().requires_grad_()
    found = formula(x, knots)
    found.backward(gradient.double())
    return found.detach(), x.grad


def pytorch(samples: torch.Tensor, gradient: torch.Tensor, knots: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Float32, with powers of exp(i d x) as well: sines and cosines of each knot would be about three times as exact."""
    found, pull = statistic(samples, knots)
    return found, slope(samples, pull) * gradient[:, None]


def run(samples: torch.Tensor, gradient: torch.Tensor, knots: int, device: torch.device):
    x = samples.to(device, copy=True).requires_grad_()
    found = epps_pulley(x, knots)
    found.backward(gradient.to(device))
    return found.detach().cpu(), x.grad.cpu()


def compare(samples: torch.Tensor, gradient: torch.Tensor, knots: int, device: torch.device) -> None:
    with guard():
        found = run(samples, gradient, knots, device)
    same, exact = pytorch(samples, gradient, knots), truth(samples, gradient, knots)
    for name, *values in zip(("statistic", "gradient"), found, same, exact, strict=True):
        assert_close(name, *values)


@pytest.mark.parametrize("size", SIZES)
def test_as_exact_as_pytorch(triton_device, size: str) -> None:
    *shape, knots = SIZES[size]
    compare(*example(*shape), knots, triton_device)


def test_parts_of_a_batch(triton_device, monkeypatch) -> None:
    monkeypatch.setattr(kernels, "PART", 16)
    compare(*example(2, 37, 5), 17, triton_device)


def test_far_from_a_gaussian(triton_device) -> None:
    samples, gradient = example(1, 20, 4)
    samples[..., 1] *= 0  # collapsed
    samples[..., 2] *= 40
    samples[..., 3] += 500
    compare(samples, gradient, 17, triton_device)


def test_the_order_of_programs_changes_nothing(triton_device, order, monkeypatch) -> None:
    monkeypatch.setattr(kernels, "PART", 16)
    samples, gradient = example(2, 37, 40)
    with guard("forward"):
        first = run(samples, gradient, 5, triton_device)
    with guard(order):
        again = run(samples, gradient, 5, triton_device)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


def test_nothing_of_the_size_of_all_knots_is_read_or_written(triton_device) -> None:
    T, B, P, knots = 1, 64, 32, 17
    with guard() as counted:
        run(*example(T, B, P), knots, triton_device)
    if counted.launches == 0:
        pytest.skip("only the interpreter counts bytes")
    sums, numbers = T * 2 * (knots - 1) * P, T * B * P
    assert counted.launches == 3
    # samples twice, sums once, the pull once for each of two row tiles, the gradient likewise
    assert counted.read == 4 * (2 * numbers + 3 * sums + 2 * T * P)
    assert counted.written == 4 * (numbers + 2 * sums + T * P)  # the slope, sums and pull, the statistic


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_error_of_the_angle_addition(triton_device, scale: float) -> None:
    """Of one sample, the mean of cos(t x) is cos(t x): k e + (k - 1) sqrt(5) u with e = 3 u + |d x| u, and u more of the mean.

    Measured: at most 6.5e-7 for |x| up to 3 and 9.2e-7 for |x| up to 90, about a quarter of the bound.
    """
    K, spacing = 16, 3 / 16
    samples = scale * torch.linspace(-3, 3, 97).view(1, 1, -1)
    found = torch.empty(1, 97, device=triton_device)
    pull = torch.empty(1, 2, K, 97, device=triton_device)
    with guard():
        kernels.forward(samples.to(triton_device), found, pull)
    k = torch.arange(1, K + 1, dtype=torch.float64)[:, None]
    t = k * spacing
    target = torch.exp(-t.square() / 2)
    weight = 2 * spacing * target
    weight[-1] /= 2
    got = pull.cpu()[0].double() / (2 * weight * t)
    angle = t * samples[0].double()
    error = torch.hypot(got[0] + target - angle.cos(), got[1] - angle.sin())
    e = (3 + (spacing * samples[0].double()).abs()) * UNIT
    # two roundings of the target's exponential, the difference and the product are not the addition's: 8 u
    bound = k * e + (k - 1) * 5**0.5 * UNIT + 8 * UNIT
    assert (error <= bound).all(), float((error / bound).max())
    print(f"scale {scale}: worst {error.max():.2e}, {float((error / bound).max()):.2f} of the bound")


def test_what_is_not_finite_is_nan_and_stays_in_its_column(triton_device) -> None:
    samples, gradient = example(1, 9, 4)
    samples[0, 3, 1], samples[0, 4, 2] = float("nan"), float("inf")
    with guard():
        found, gradients = run(samples, gradient, 17, triton_device)
    assert found.isnan().tolist() == [[False, True, True, False]]
    assert gradients[0, :, [0, 3]].isfinite().all()
    assert gradients[0, :, [1, 2]].isnan().any(0).all()


def test_samples_beyond_any_angle_stay_finite(triton_device) -> None:
    samples, gradient = example(1, 9, 2)
    samples[0, 0] = torch.tensor([1e8, -3e38])
    with guard():
        found, gradients = run(samples, gradient, 17, triton_device)
    assert found.isfinite().all()
    assert (found >= 0).all()
    assert gradients.isfinite().all()


def test_from_latents(triton_device) -> None:
    random = torch.Generator().manual_seed(0)
    latents, directions = torch.randn(2, 11, 6, generator=random), torch.randn(6, 7, generator=random)

    def gradient(z, p, function):
        z = z.clone().requires_grad_()
        found = function(z, p)
        found.mean().backward()  # a gradient of stride 0
        return found.detach().cpu(), z.grad.cpu()

    with guard():
        found = gradient(latents.to(triton_device), directions.to(triton_device), ops.sigreg)
    same, truth = (
        gradient(latents.to(dtype), directions.to(dtype), lambda z, p: formula(z @ p, 17))
        for dtype in (torch.float32, torch.float64)
    )
    for name, *values in zip(("statistic", "gradient"), found, same, truth, strict=True):
        assert_close(name, *values)


def test_what_only_a_cpu_takes_is_named(triton_device) -> None:
    assert gpu.is_gpu(triton_device)
    with pytest.raises(TypeError, match=r"samples is torch.float64, expected torch.float32"):
        epps_pulley(torch.zeros(1, 2, 3, dtype=torch.float64, device=triton_device))
    with pytest.raises(ValueError, match="knots is 34, expected 2 <= knots < 34"):
        epps_pulley(torch.zeros(1, 2, 3, device=triton_device), 34)
