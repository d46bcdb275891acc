"""Distance from predicted latents to the goal, one number per candidate."""

from __future__ import annotations

import torch
from torch import Tensor

from fastwm import reference
from fastwm.engine.backend import cpu_module
from fastwm.ops import _check
from fastwm.ops._register import op

METRICS = ("squared", "absolute", "cosine")
REDUCTIONS = ("last", "min", "mean")


def goal_cost(
    latents: Tensor,
    goal: Tensor,
    metric: str = "squared",
    reduce: str = "last",
    *,
    threads: int = 1,
    isa: str | None = None,
) -> Tensor:
    """cost [B, S] of latents float32 [B, S, T, E] (or [B, S, E], one step) for goal float32 [B, E].

    metric: "squared" sum over E of (z - g)^2, "absolute" sum over E of |z - g|, "cosine" 1 - z.g / (|z| |g|).
    reduce: over T, the "last" step, the "min" or the "mean". A NaN in a step that is read makes the cost NaN.
    A cost is a function of its own latents and goal, whatever the batch and the threads. Where gradients are
    asked for, the PyTorch reference runs.
    Raises TypeError or ValueError naming the argument.
    """
    if latents.dim() == 3:
        latents = latents.unsqueeze(2)
    if torch.is_grad_enabled() and (latents.requires_grad or goal.requires_grad):
        _check_arguments(latents, goal, metric, reduce, threads, isa)
        return reference.goal_cost(latents, goal, metric, reduce)
    return _goal_cost(latents, goal, metric, reduce, threads, isa)


def _check_arguments(
    latents: Tensor, goal: Tensor, metric: str, reduce: str, threads: int, isa: str | None
) -> Tensor:
    B, S, T, E = _check.rank("latents", latents, "B S T E").shape
    _check.tensor("latents", latents, (B, S, T, E), latents)
    _check.tensor("goal", goal, (B, E), latents)
    _check.choice("metric", metric, METRICS)
    _check.choice("reduce", reduce, REDUCTIONS)
    _check.integer("threads", threads, 1, 1025)
    return latents.new_empty(B, S)


@op(
    "goal_cost(Tensor latents, Tensor goal, str metric, str reduce, int threads, str? isa) -> Tensor",
    fake=_check_arguments,
)
def _goal_cost(
    latents: Tensor, goal: Tensor, metric: str, reduce: str, threads: int, isa: str | None
) -> Tensor:
    cost = _check_arguments(latents, goal, metric, reduce, threads, isa)
    gpu, kernels = _check.gpu_for(latents.device, isa), _check.kernels_for(latents.device, isa)
    if gpu is None and kernels is None:
        return reference.goal_cost(latents, goal, metric, reduce)
    latents, goal = latents.contiguous(), goal.contiguous()
    addresses = map(_check.address, (latents, goal, cost))
    how = (METRICS.index(metric), REDUCTIONS.index(reduce))
    if gpu is not None:
        gpu("goal_cost", *addresses, *latents.shape, *how)
    else:
        cpu_module().goal_cost(kernels, *addresses, *latents.shape, *how, threads)
    return cost
