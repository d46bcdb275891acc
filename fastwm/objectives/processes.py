"""Sums over the processes of a training run, through which gradients flow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import distributed

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def count() -> int:
    """Processes that share a batch: 1 where torch.distributed is not initialised, and within `alone`."""
    if is_alone() or not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()


def is_alone() -> bool:
    """Whether this is within `alone`."""
    return _ALONE.get()


@contextmanager
def alone() -> Iterator[None]:
    """What this process computes is its own: the others do not take part, and would be waited for."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


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
