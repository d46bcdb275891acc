"""Sums over the processes of a training run, through which gradients flow."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed


def count() -> int:
    """Processes that share a batch: 1 where torch.distributed is not initialised."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all processes; its gradient is the sum over theirs."""
    return value if count() == 1 else _Total.apply(value)


class _Total(torch.autograd.Function):
    """torch.distributed's sum, whose gradient is a sum, too (torch.distributed.nn's is deprecated)."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        summed = value.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return total(gradients[0])
