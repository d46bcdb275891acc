"""Sums over the processes of a training run, through which gradients flow."""

from __future__ import annotations

import torch
from torch import distributed


def count() -> int:
    """Processes that share a batch: 1 where torch.distributed is not initialised."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def total(value: torch.Tensor) -> torch.Tensor:
    """The sum of `value` over all processes; its gradient is the sum over theirs."""
    if count() == 1:
        return value
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(value)
