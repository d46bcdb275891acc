"""Objectives against float64 numpy evaluations of their formulas, and the properties they exist for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastwm.objectives import PredictionLoss, RolloutLoss, SIGReg, VICReg
from fastwm.objectives.sigreg import epps_pulley


def trapezoid_over_both_signs(samples: np.ndarray, knots: int) -> np.ndarray:
    """samples [B, P] -> [P]: the statistic with sines and cosines, over t in [-3, 3], in float64."""
    t = np.linspace(-3, 3, 2 * knots - 1)
    angles = samples.astype(np.float64)[..., None] * t  # [B, P, 2 knots - 1]
    real, imaginary = np.cos(angles).mean(0), np.sin(angles).mean(0)
    integrand = ((real - np.exp(-(t**2) / 2)) ** 2 + imaginary**2) * np.exp(-(t**2) / 2)
    steps = np.diff(t)
    return len(samples) * ((integrand[:, 1:] + integrand[:, :-1]) / 2 * steps).sum(1)


def closed_form(samples: np.ndarray) -> float:
    """samples [B]: the integral over all t, from Gaussian integrals instead of a quadrature."""
    x = samples.astype(np.float64)
    pairs = np.exp(-((x[:, None] - x) ** 2) / 2).mean()
    cross = np.exp(-(x**2) / 4).mean() / np.sqrt(2)
    return float(len(x) * np.sqrt(2 * np.pi) * (pairs - 2 * cross + 1 / np.sqrt(3)))


@pytest.mark.parametrize("knots", [2, 3, 17, 18])
@pytest.mark.parametrize(("times", "batch", "projections"), [(1, 2, 1), (3, 7, 5), (2, 65, 33)])
def test_epps_pulley_is_the_trapezoid_rule(knots: int, times: int, batch: int, projections: int) -> None:
    samples = (
        1.5 * torch.randn(times, batch, projections, generator=torch.Generator().manual_seed(knots)) + 0.3
    )
    truth = np.stack([trapezoid_over_both_signs(x, knots) for x in samples.numpy()])
    np.testing.assert_allclose(epps_pulley(samples, knots).numpy(), truth, rtol=2e-4, atol=1e-6)
    np.testing.assert_allclose(epps_pulley(samples.double(), knots).numpy(), truth, rtol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0])
def test_epps_pulley_is_near_the_integral_over_all_t(scale: float) -> None:
    samples = scale * np.random.default_rng(0).standard_normal(64) + 0.7
    found = epps_pulley(torch.from_numpy(samples)[None, :, None]).item()
    assert found == pytest.approx(closed_form(samples), rel=0.03)


def test_epps_pulley_gradient() -> None:
    samples = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(epps_pulley, (samples,))


def test_epps_pulley_of_large_samples_stays_accurate() -> None:
    samples = torch.linspace(-60, 60, 41)[None, :, None]
    truth = trapezoid_over_both_signs(samples[0].numpy(), 17)
    np.testing.assert_allclose(epps_pulley(samples)[0].numpy(), truth, rtol=1e-3)


@pytest.mark.parametrize(("times", "batch", "embed"), [(1, 2, 1), (4, 9, 5), (2, 64, 192)])
def test_sigreg_averages_over_unit_directions_and_time(times: int, batch: int, embed: int) -> None:
    latents = torch.randn(times, batch, embed, requires_grad=True)
    found = SIGReg(projections=31)(latents, generator=torch.Generator().manual_seed(5))
    directions = torch.randn(embed, 31, generator=torch.Generator().manual_seed(5)).double().numpy()
    directions /= np.sqrt((directions**2).sum(0))
    columns = latents.detach().double().numpy() @ directions
    truth = np.mean([trapezoid_over_both_signs(x, 17) for x in columns])
    assert found.item() == pytest.approx(truth, rel=1e-4)
    found.backward()
    assert latents.grad.abs().sum() > 0


def test_sigreg_draws_fresh_directions() -> None:
    latents = torch.randn(1, 8, 6)
    sigreg = SIGReg(projections=3)
    assert sigreg(latents) != sigreg(latents)
    one, two = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    assert sigreg(latents, generator=one) == sigreg(latents, generator=two)


def test_sigreg_tells_a_gaussian_from_anything_else() -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 512, 4)
    normal = torch.randn(shape, generator=generator)
    others = {
        "collapsed": torch.zeros(shape) + 1e-3 * normal,
        "collapsed to a line": normal[..., :1].expand(shape),
        "uniform": torch.rand(shape, generator=generator),
        "two points": torch.where(torch.rand(2, 512, 1, generator=generator) < 0.5, -1.0, 1.0).expand(shape),
        "shifted": normal + 1,
        "too wide": 2 * normal,
    }
    sigreg = SIGReg(projections=64)
    score = sigreg(normal, generator=generator).item()
    for name, latents in others.items():
        assert sigreg(latents, generator=generator).item() > 5 * score, name


def test_descending_sigreg_makes_latents_gaussian() -> None:
    generator = torch.Generator().manual_seed(0)
    latents = (0.5 + 0.1 * torch.rand(1, 256, 3, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([latents], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        SIGReg(projections=32)(latents, generator=generator).backward()
        optimizer.step()
    covariance = torch.cov(latents.detach()[0].T)
    torch.testing.assert_close(covariance, torch.eye(3), atol=0.25, rtol=0)
    assert latents.detach().mean(dim=1).abs().max() < 0.15


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 20), st.integers(1, 8), st.integers(0, 2**16))
def test_regularisers_do_not_care_about_the_order_of_a_batch(batch: int, embed: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, batch, embed, generator=generator)
    shuffled = latents[:, torch.randperm(batch, generator=generator)]
    for found, again in (
        [
            SIGReg(projections=4)(x, generator=torch.Generator().manual_seed(seed))
            for x in (latents, shuffled)
        ],
        [VICReg()(x) for x in (latents, shuffled)],
    ):
        torch.testing.assert_close(found, again, rtol=1e-4, atol=1e-5)


def test_sigreg_computes_bfloat16_latents_in_float32() -> None:
    latents = torch.randn(2, 16, 8).bfloat16()
    found = SIGReg(projections=8)(latents, generator=torch.Generator().manual_seed(0))
    truth = SIGReg(projections=8)(latents.float(), generator=torch.Generator().manual_seed(0))
    assert found.dtype == torch.float32
    assert found == truth


def test_vicreg_is_its_formula() -> None:
    latents = 0.7 * torch.randn(3, 11, 5)
    truth = []
    for x in latents.double().numpy():
        covariance = np.cov(x.T)
        hinge = np.maximum(0, 1 - np.sqrt(np.diag(covariance) + 1e-4)).mean()
        off_diagonal = (covariance[~np.eye(5, dtype=bool)] ** 2).sum() / 5
        truth.append(25 * hinge + off_diagonal)
    assert VICReg()(latents).item() == pytest.approx(np.mean(truth), rel=1e-4)


def test_vicreg_is_content_with_wide_uncorrelated_latents() -> None:
    axes = 3 * torch.eye(4).repeat(2, 1)
    axes[4:] *= -1  # +-3 on each axis: uncorrelated, each with standard deviation above 1
    assert VICReg()(axes[None]).item() == pytest.approx(0, abs=1e-6)
    assert VICReg()(torch.zeros(1, 8, 4)).item() > 20


def test_the_prediction_loss_moves_its_targets() -> None:
    predicted = torch.randn(2, 5, 3, requires_grad=True)
    latents = torch.randn(3, 5, 3, requires_grad=True)
    loss = PredictionLoss()(predicted, latents)
    difference = predicted.detach().double().numpy() - latents.detach().double().numpy()[1:]
    assert loss.item() == pytest.approx((difference**2).mean(), rel=1e-5)
    loss.backward()
    torch.testing.assert_close(latents.grad[1:], -predicted.grad)
    assert latents.grad[0].abs().sum() == 0


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_the_rollout_loss_judges_predictions_from_predictions(steps: int) -> None:
    """Dynamics z' = 0.5 z + a: the error after n steps is 0.5^(n-1) of the first, plus what each true step was off."""
    torch.manual_seed(0)
    latents, actions = torch.randn(3, 6, 2, requires_grad=True), torch.randn(3, 5, 2)

    def rollout(context: torch.Tensor, ahead: torch.Tensor, past: torch.Tensor) -> torch.Tensor:
        assert torch.equal(torch.cat([past, ahead[:, 0]], dim=1), actions)
        assert context.shape[1] == past.shape[1] + 1 == 6 - steps
        z, found = context[:, -1], []
        for step in range(steps):
            z = 0.5 * z + ahead[:, 0, step]
            found.append(z)
        return torch.stack(found, dim=1)[:, None]

    loss = RolloutLoss(steps)(rollout, latents, actions)
    true, a = latents.detach().double().numpy(), actions.double().numpy()
    z, squares = true[:, 5 - steps], []
    for step in range(steps):
        z = 0.5 * z + a[:, 5 - steps + step]
        if step:
            squares.append((z - true[:, 6 - steps + step]) ** 2)
    assert loss.item() == pytest.approx(np.mean(squares), rel=1e-5)
    loss.backward()
    assert (latents.grad[:, 6 - steps] == 0).all()  # the first step is teacher forcing's
    assert (latents.grad[:, -1] != 0).all()
    assert RolloutLoss(1)(rollout, latents, actions) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RolloutLoss(0), "steps is 0; expected an integer of at least 1"),
        (
            lambda: RolloutLoss(3)(lambda c, a, p: a, torch.zeros(2, 3, 4), torch.zeros(2, 2, 1)),
            r"expected \[B, T > 3 steps, E\]",
        ),
        (
            lambda: RolloutLoss(2)(lambda c, a, p: a, torch.zeros(2, 4, 4), torch.zeros(2, 4, 1)),
            r"actions has shape \[2, 4, 1\]; expected \[2, 3, A\]",
        ),
        (lambda: SIGReg(knots=1), "knots is 1"),
        (lambda: SIGReg(projections=0), "projections 0"),
        (lambda: SIGReg()(torch.zeros(3, 4)), r"latents has shape \[3, 4\]; expected \[T, B, E\]"),
        (lambda: VICReg()(torch.zeros(2, 1, 4)), r"expected \[T, B >= 2, E\]"),
        (
            lambda: PredictionLoss()(torch.zeros(3, 2, 4), torch.zeros(3, 2, 4)),
            r"predicted has shape \[3, 2, 4\]",
        ),
        (
            lambda: PredictionLoss()(torch.zeros(2, 1, 4), torch.zeros(3, 2, 4)),
            r"predicted has shape \[2, 1, 4\]",
        ),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
