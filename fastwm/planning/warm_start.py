"""What one plan leaves to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastwm.planning.inputs import Dynamics, numbers

if TYPE_CHECKING:
    from fastwm.planning.plan import Plan


class WarmStart(NamedTuple):
    """The blocks of a plan that are still to come, T' of them; a search may take as much of it as its options say.

    std is used where `warm_std` says so; kept, candidates that are tried again in the first iteration, where `keep` does.
    """

    mean: Tensor | np.ndarray  # [B, T', A]
    std: Tensor | None = None  # [B, T', A]
    kept: Tensor | None = None  # [B, n, T', A]

    @classmethod
    def of(cls, given: Plan | WarmStart | Tensor | np.ndarray | None) -> WarmStart | None:
        """From what `Planner.plan` takes: the first block of a Plan has been executed."""
        if given is None or isinstance(given, WarmStart):
            return given
        if isinstance(given, (Tensor, np.ndarray)):
            return cls(given)
        if not hasattr(given, "rest"):
            raise TypeError(
                f"warm_start is {type(given).__name__}, expected a Plan, a WarmStart, or floating-point numbers [B, T', A]"
            )
        return given.rest(1)


def first_blocks(engine: Dynamics, start: WarmStart | None, B: int, T: int) -> Tensor:
    """The blocks [B, T', A] of a warm start, T' = 0 without one."""
    if start is None:
        return engine.action_mean.expand(B, 0, -1)
    given = numbers("warm_start", start.mean, (B, None, engine.action_dim))
    if given.shape[1] > T:
        raise ValueError(f"warm_start has {given.shape[1]} blocks, expected at most {T}, the horizon")
    return given


def first_mean(engine: Dynamics, begun: Tensor, T: int) -> Tensor:
    """Mean of the first iteration [B, T, A]: the blocks `begun`, then the mean of the model's training actions."""
    B, done, _ = begun.shape
    return torch.cat([begun, engine.action_mean.expand(B, T - done, -1)], dim=1)


def first_std(start: WarmStart | None, std: Tensor) -> Tensor:
    """Std of the first iteration: the warm start's, then `std` [B, T, A]."""
    if start is None or start.std is None:
        return std
    given = numbers("warm_start.std", start.std, (len(std), start.mean.shape[1], std.shape[2]))
    return torch.cat([given, std[:, given.shape[1] :]], dim=1)


def first_kept(start: WarmStart | None, mean: Tensor) -> Tensor | None:
    """Candidates [B, n, T, A] of the plan before, each continued as the first mean [B, T, A] is."""
    if start is None or start.kept is None:
        return None
    given = numbers("warm_start.kept", start.kept, (len(mean), None, start.mean.shape[1], mean.shape[2]))
    rest = mean[:, None, given.shape[2] :].expand(-1, given.shape[1], -1, -1)
    return torch.cat([given, rest], dim=2)
