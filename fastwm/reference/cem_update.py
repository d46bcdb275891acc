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
    best_cost: Tensor | None = None,
    best_actions: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """actions [B, S, T, A], cost [B, S], mean, std [B, T, A] -> mean, std, elites, elite_cost, non_finite; with the best seen,
    cost [B] and actions [B, T, A], also what they are now.

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
    found = new_mean.float(), new_std.float(), elites, _mean_cost(cost, elites), (~finite).sum(1)
    if best_cost is None or best_actions is None:
        return found
    first = elites[:, :1]  # [B, 1]
    price, candidate = cost.gather(1, first)[:, 0], actions.take_along_dim(first[:, :, None, None], 1)[:, 0]
    better = price.isfinite() & (price < best_cost)
    return (
        *found,
        torch.where(better, price, best_cost),
        torch.where(better[:, None, None], candidate, best_actions),
    )


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
