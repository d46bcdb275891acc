"""The Epps-Pulley statistic of projected latents in plain PyTorch, any floating dtype.

Compares the empirical characteristic function of each column of samples with that of N(0, 1) (LeJEPA, arXiv:2511.08544):

    B * integral over [-3, 3] of |mean_b exp(i t x_b) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt

by the trapezoid rule; the integrand is even, so the knots lie on [0, 3] and count twice. They are multiples of one step d, so
exp(i k d x) is the k-th power of exp(i d x): one complex product per knot replaces a sine and a cosine, and the gradient is a
polynomial in exp(i d x), by Horner's rule. Memory is that of [T, B, projections], not times knots.
"""

from __future__ import annotations

import torch
from torch import Tensor

LIMIT = 3.0  # exp(-t^2 / 2) beyond is below 1.2 %


def sigreg(latents: Tensor, directions: Tensor, knots: int = 17) -> Tensor:
    """latents [T, B, E], directions [E, P] -> [T, P]: the statistic of each projection. See `fastwm.ops.sigreg`."""
    return statistic(latents @ directions, knots)[0]


def rule(knots: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[3, knots - 1] of each knot t > 0: the target phi = exp(-t^2 / 2), the trapezoid rule's weight w, and 2 w t.

    At t = 0 both characteristic functions are 1: no term.
    """
    spacing = LIMIT / (knots - 1)
    t = torch.arange(1, knots, dtype=dtype, device=device) * spacing
    target = torch.exp(-t.square() / 2)
    weight = torch.cat([2 * spacing * target[:-1], spacing * target[-1:]])
    return torch.stack([target, weight, 2 * weight * t])


def statistic(samples: Tensor, knots: int) -> tuple[Tensor, Tensor]:
    """samples [T, B, P] -> the statistic [T, P], and what `slope` needs, [T, 2, knots - 1, P]: for each knot t > 0 with weight
    w and target phi, 2 w t (C - phi) and 2 w t S, where C and S are the means of cos(t x) and sin(t x)."""
    target, weight, force = rule(knots, samples.dtype, samples.device)
    base = _turn(LIMIT / (knots - 1) * samples)  # exp(i d x) [T, B, P]
    power = base
    means = [power.mean(dim=1)]
    for _ in range(2, knots):
        power = power * base
        means.append(power.mean(dim=1))
    mean = torch.stack(means, dim=1)  # [T, knots - 1, P]
    error = torch.stack([mean.real - target[:, None], mean.imag], dim=1)
    found = samples.shape[1] * torch.einsum("tckp,k->tp", error.square(), weight)
    return found, force[:, None] * error


def of_pull(pull: Tensor, count: Tensor | float) -> Tensor:
    """The statistic [T, P] of `count` samples whose pull is [T, 2, knots - 1, P]."""
    _, weight, force = rule(pull.shape[2] + 1, pull.dtype, pull.device)
    return count * torch.einsum("tckp,k->tp", pull.square(), weight / force.square())


def slope(samples: Tensor, pull: Tensor) -> Tensor:
    """samples [T, B, P], pull [T, 2, knots - 1, P] of `statistic` -> d statistic / d sample, [T, B, P]:
    sum_k pull_sin_k cos(k d x) - pull_cos_k sin(k d x) = -Im sum_k (pull_cos_k - i pull_sin_k) exp(i d x)^k."""
    knots = pull.shape[2]
    base = _turn(LIMIT / knots * samples)
    coefficients = torch.complex(pull[:, 0], -pull[:, 1])
    total = coefficients[:, -1:] * base
    for k in range(knots - 2, -1, -1):
        total = (total + coefficients[:, k : k + 1]) * base
    return -total.imag


def _turn(angle: Tensor) -> Tensor:
    """exp(i angle); `torch.polar` takes three times as long on a CPU."""
    return torch.complex(angle.cos(), angle.sin())
