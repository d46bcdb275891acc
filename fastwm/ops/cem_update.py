"""Refit of the sampling distribution to the candidates of lowest cost."""

from __future__ import annotations

import torch
from torch import Tensor

from fastwm import reference
from fastwm.engine.backend import cpu_module
from fastwm.ops import _check
from fastwm.ops._register import op


def cem_update(
    actions: Tensor,
    cost: Tensor,
    mean: Tensor,
    std: Tensor,
    elite_count: int,
    *,
    momentum: float = 0.0,
    min_std: float = 0.0,
    best_cost: Tensor | None = None,
    best_actions: Tensor | None = None,
    threads: int = 1,
    isa: str | None = None,
) -> tuple[Tensor, ...]:
    """New mean and std [B, T, A], elites [B, k] (candidate indices, best first), elite_cost [B], non_finite
    [B]; and, if given, the new best_cost [B] and best_actions [B, T, A].

    actions: float32 [B, S, T, A]; cost: float32 [B, S]; mean, std: float32 [B, T, A], the distribution to
    update;
    elite_count: k, 1 <= k <= S. Equal costs are ranked by index; a cost that is not finite counts as worst.
    mean = momentum * mean + (1 - momentum) * elites' mean; std likewise from the elites' unbiased standard
    deviation (0 when k is 1), then at least min_std. elite_cost: mean over the elites of finite cost,
    infinity if there is none.
    non_finite: int64, how many costs were not finite.
    best_cost, best_actions: float32 [B], [B, T, A], the best candidate of earlier iterations; both or neither. The best elite
    takes its place where its cost is finite and lower.
    The same bits on every instruction set, thread count and batch split, and in the PyTorch reference. No
    gradient flows.
    Raises TypeError or ValueError naming the argument.
    """
    found = _cem_update(
        actions, cost, mean, std, elite_count, momentum, min_std, best_cost, best_actions, threads, isa
    )
    return found if best_cost is not None else found[:5]


def _check_arguments(
    actions: Tensor,
    cost: Tensor,
    mean: Tensor,
    std: Tensor,
    elite_count: int,
    momentum: float,
    min_std: float,
    best_cost: Tensor | None,
    best_actions: Tensor | None,
    threads: int,
    isa: str | None,
) -> tuple[Tensor, ...]:
    B, S, T, A = _check.rank("actions", actions, "B S T A").shape
    _check.tensor("actions", actions, (B, S, T, A), actions)
    _check.tensor("cost", cost, (B, S), actions)
    _check.tensor("mean", mean, (B, T, A), actions)
    _check.tensor("std", std, (B, T, A), actions)
    if not 1 <= elite_count <= S:
        raise ValueError(
            f"elite_count is {elite_count}, expected 1 <= elite_count <= {S}, the number of candidates"
        )
    _check.number("momentum", momentum, 0.0, 1.0)
    _check.number("min_std", min_std, 0.0)
    if (best_cost is None) != (best_actions is None):
        given, missing = ("best_cost", "best_actions")[:: 1 if best_actions is None else -1]
        raise ValueError(f"{missing} is None, expected a torch.Tensor as {given} is one")
    if best_cost is not None:
        _check.tensor("best_cost", best_cost, (B,), actions)
        _check.tensor("best_actions", best_actions, (B, T, A), actions)
    _check.integer("threads", threads, 1, 1025)
    return (
        mean.new_empty(B, T, A),
        mean.new_empty(B, T, A),
        mean.new_empty(B, elite_count, dtype=torch.int64),
        mean.new_empty(B),
        mean.new_empty(B, dtype=torch.int64),
        mean.new_empty(0 if best_cost is None else B),
        mean.new_empty((0,) if best_cost is None else (B, T, A)),
    )


@op(
    "cem_update(Tensor actions, Tensor cost, Tensor mean, Tensor std, int elite_count, float momentum, float min_std, "
    "Tensor? best_cost, Tensor? best_actions, int threads, str? isa) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    fake=_check_arguments,
)
def _cem_update(
    actions: Tensor,
    cost: Tensor,
    mean: Tensor,
    std: Tensor,
    elite_count: int,
    momentum: float,
    min_std: float,
    best_cost: Tensor | None,
    best_actions: Tensor | None,
    threads: int,
    isa: str | None,
) -> tuple[Tensor, ...]:
    outputs = _check_arguments(
        actions, cost, mean, std, elite_count, momentum, min_std, best_cost, best_actions, threads, isa
    )
    gpu, kernels = _check.gpu_for(actions.device, isa), _check.kernels_for(actions.device, isa)
    if gpu is None and kernels is None:
        found = reference.cem_update(
            actions, cost, mean, std, elite_count, momentum, min_std, best_cost, best_actions
        )
        return found if best_cost is not None else (*found, *outputs[5:])
    given = (actions, cost, mean, std, best_cost, best_actions)
    inputs = [None if value is None else value.contiguous() for value in given]
    addresses = map(_check.address, (*inputs, *outputs))
    if gpu is not None:
        gpu("cem_update", *addresses, *actions.shape, elite_count, momentum, min_std)
    else:
        cpu_module().cem_update(kernels, *addresses, *actions.shape, elite_count, momentum, min_std, threads)
    return outputs
