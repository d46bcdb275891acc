"""Refit of the sampling distribution to the elites in plain PyTorch, the same bits as the kernels.

Sums run in double, best elite first, one elite at a time: the order of the additions is part of the result. (torch's
square root in double may be off in its last bit; that reaches the float32 result about once in a billion numbers.)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def cem_update(
    actions: Tensor,
    cost: Tensor,
    mean: Tensor,
    std: Tensor,
    elite_count: int,
    momentum: float = 0.0,
    min_std: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """actions [B, S, T, A], cost [B, S], mean, std [B, T, A] -> mean, std, elites, elite_cost, non_finite.

    See `fastwm.ops.cem_update`.
    """
    finite = cost.isfinite()
    ranked = torch.where(finite, cost, math.inf).sort(dim=1, stable=True)
    elites = ranked.indices[:, :elite_count].contiguous()  # [B, k], best first
    chosen = actions.gather(1, elites[:, :, None, None].expand(-1, -1, *actions.shape[2:])).double()
    elite_mean = _sum(chosen) / elite_count
    square = _sum((chosen - elite_mean[:, None]).square())
    elite_std = (square / max(elite_count - 1, 1)).sqrt()
    new_mean = momentum * mean.double() + (1.0 - momentum) * elite_mean
    new_std = momentum * std.double() + (1.0 - momentum) * elite_std
    new_std = torch.where(new_std < min_std, min_std, new_std)
    return new_mean.float(), new_std.float(), elites, _mean_cost(cost, elites), (~finite).sum(1)


def _sum(numbers: Tensor) -> Tensor:
    total = torch.zeros_like(numbers[:, 0])
    for i in range(numbers.shape[1]):
        total = total + numbers[:, i]
    return total


def _mean_cost(cost: Tensor, elites: Tensor) -> Tensor:
    chosen = cost.gather(1, elites).double()
    finite = chosen.isfinite()
    count = finite.sum(1)
    total = _sum(torch.where(finite, chosen, 0.0))
    return torch.where(count > 0, total / count.clamp(min=1), math.inf).float()
