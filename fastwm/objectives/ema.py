"""A target that follows its encoder: an exponential moving average whose momentum rises over the run."""

from __future__ import annotations

import torch
from torch import nn


def momentum_at(step: int, steps: int, first: float, last: float = 1.0) -> float:
    """The momentum after step 1..steps: `first` at the first, `last` at the last, linear between (I-JEPA, arXiv:2301.08243,
    appendix A.1; V-JEPA, arXiv:2404.08471, appendix)."""
    return first + (last - first) * (step - 1) / max(steps - 1, 1)


@torch.no_grad()
def follow(target: nn.Module, online: nn.Module, momentum: float) -> None:
    """target <- momentum * target + (1 - momentum) * online, parameter by parameter; buffers are copied."""
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum is {momentum}; expected 0..1")
    torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), 1 - momentum)
    for ours, theirs in zip(target.buffers(), online.buffers(), strict=True):
        ours.copy_(theirs)
