"""Adaptive layer normalisation in plain PyTorch, any floating dtype."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def adaln(
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gain: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-6,
    affine_eps: float = 1e-5,
) -> Tensor:
    """x [..., N, W], shift and scale [..., N or 1, W], gain and bias [W] -> [..., N, W]. See `fastwm.ops.adaln`."""
    modulated = F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift
    return modulated if gain is None else F.layer_norm(modulated, x.shape[-1:], gain, bias, affine_eps)


def adaln_backward(
    gradient: Tensor,
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gain: Tensor | None,
    eps: float,
    affine_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, shift, scale, and [2, W] of gain and bias (empty without them), from that of `adaln`'s result."""
    normalised, rstd = _normalise(x, eps)
    of_affine = x.new_empty(0)
    if gain is not None:
        modulated, modulated_rstd = _normalise(normalised * (1 + scale) + shift, affine_eps)
        of_affine = torch.stack(
            [(gradient * modulated).flatten(0, -2).sum(0), gradient.flatten(0, -2).sum(0)]
        )
        gradient = _through_norm(gradient * gain, modulated, modulated_rstd)
    dx = _through_norm(gradient * (1 + scale), normalised, rstd)
    return dx, gradient.sum_to_size(shift.shape), (gradient * normalised).sum_to_size(scale.shape), of_affine


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normalised rows and their reciprocal deviations [..., 1]."""
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    rstd = (variance + eps).rsqrt()
    return (x - mean) * rstd, rstd


def _through_norm(gradient: Tensor, normalised: Tensor, rstd: Tensor) -> Tensor:
    along = (gradient * normalised).mean(-1, keepdim=True)
    return rstd * (gradient - gradient.mean(-1, keepdim=True) - normalised * along)
