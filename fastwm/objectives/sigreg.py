"""SIGReg: latents are pushed towards an isotropic Gaussian through random one-dimensional projections.

For each unit direction the Epps-Pulley statistic compares the empirical characteristic function of the
projected batch with that of a standard normal (LeJEPA, arXiv:2511.08544):

    B * integral over [-3, 3] of |mean_b exp(i t x_b) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt

by the trapezoid rule; the integrand is even, so the knots lie on [0, 3] and count twice.

The knots are multiples of one step d, so exp(i k d x) is the k-th power of exp(i d x): one complex product
per knot replaces a sine and a cosine, and the gradient is a polynomial in exp(i d x), by Horner's rule.
Memory is that of [T, B, projections]; autograd through cos and sin keeps [T, B, projections, knots] several
times and takes four times as long.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

LIMIT = 3.0  # exp(-t^2 / 2) beyond is below 1.2 %


class SIGReg(nn.Module):
    """Sliced Epps-Pulley statistic, averaged over fresh Gaussian directions and over time."""

    def __init__(self, knots: int = 17, projections: int = 1024) -> None:
        super().__init__()
        if knots < 2 or projections < 1:
            raise ValueError(f"knots is {knots} and projections {projections}; expected at least 2 and 1")
        self.knots = knots
        self.projections = projections

    def forward(self, latents: torch.Tensor, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """latents [T, B, E] -> scalar; `generator` draws the directions."""
        if latents.ndim != 3:
            raise ValueError(f"latents has shape {list(latents.shape)}; expected [T, B, E]")
        latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
        directions = torch.randn(latents.shape[-1], self.projections, generator=generator)
        directions = (directions / directions.norm(dim=0)).to(latents)  # [E, projections]
        return epps_pulley(latents @ directions, self.knots).mean()


def epps_pulley(samples: torch.Tensor, knots: int = 17) -> torch.Tensor:
    """Epps-Pulley statistic of each column against N(0, 1): samples [T, B, P] -> [T, P]"""
    return _EppsPulley.apply(samples, knots)


class _EppsPulley(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, samples: torch.Tensor, knots: int) -> torch.Tensor:
        spacing = LIMIT / (knots - 1)
        t = torch.arange(1, knots, dtype=samples.dtype, device=samples.device) * spacing
        target = torch.exp(-t.square() / 2)  # at t = 0 both characteristic functions are 1: no term
        weight = 2 * spacing * target
        weight[-1] /= 2  # trapezoid

        base = torch.polar(torch.ones_like(samples), spacing * samples)  # exp(i d x) [T, B, P]
        power = base
        means = [power.mean(dim=1)]
        for _ in range(2, knots):
            power = power * base
            means.append(power.mean(dim=1))
        error = torch.stack(means, dim=1) - target[:, None]  # [T, knots-1, P]
        batch = samples.shape[1]
        # d statistic / d x_b = sum_k 2 w_k t_k (S_k cos - (C_k - phi_k) sin) = -Im sum_k coefficient_k base^k
        ctx.save_for_backward(base, (2 * weight * t)[:, None] * error.conj().resolve_conj())
        return batch * torch.einsum("tkp,k->tp", error.real.square() + error.imag.square(), weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        base, coefficients = ctx.saved_tensors
        total = coefficients[:, -1:] * base
        for k in range(coefficients.shape[1] - 2, -1, -1):
            total = (total + coefficients[:, k : k + 1]) * base
        return -total.imag * grad[:, None], None
