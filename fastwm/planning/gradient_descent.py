"""Gradient descent on the actions themselves, from several starts, through the model.

Adam (Kingma & Ba, arXiv:1412.6980) on actions measured in standard deviations of the first iteration, so that a step means the
same in every dimension of an action. Gradients come from the PyTorch reference, in float32, whatever the engine's dtype.
"""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor

from fastwm.planning.draws import Draws
from fastwm.planning.sampling import Sampling, State, best

FIRST, SECOND, TINY = 0.9, 0.999, 1e-8  # Adam's beta_1, beta_2 and epsilon


@dataclasses.dataclass(frozen=True)
class GradientDescent(Sampling):
    """Every candidate is a restart, which descends its own cost; the plan is the best point that any of them visited.

    samples: restarts. The first starts at the mean, the others at proposals and at draws around it; given `noise`, the draws
    are those of its first iteration. learning_rate: of Adam, in std. trust_region: actions stay within as many std of where
    their restart began, None sets no limit. Bounds are kept by projection: actions are clipped after every step.
    tolerance: a search has converged once no action of any restart moves by more than that share of its std.
    A restart whose cost or gradient is not finite goes halfway back to where both last were. The std stays as it was; the
    mean is the cheapest restart of the last iteration, one step on, which is the plan where `return_best` is off.
    """

    samples: int = 8
    iterations: int = 50
    learning_rate: float = dataclasses.field(default=0.1, kw_only=True)
    trust_region: float | None = dataclasses.field(default=None, kw_only=True)
    return_best: bool = dataclasses.field(default=True, kw_only=True)

    gradients: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._unused("min_std", "max_std", "keep", "decay", "momentum")
        for name in ("learning_rate", "trust_region"):
            value = getattr(self, name)
            if value is None and name == "trust_region":
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < math.inf:
                raise ValueError(f"{name} is {value!r}, expected a positive number")

    def sample(
        self,
        state: State,
        draws: Draws,
        iteration: int,
        *,
        proposals: Tensor | None = None,
        threads: int = 1,
    ) -> Tensor:
        """Where the restarts are: [B, S, T, A]."""
        if state.kept is not None:
            return state.kept
        return super().sample(state, draws, iteration, proposals=proposals, threads=threads)

    def update(
        self,
        state: State,
        actions: Tensor,
        cost: Tensor,
        *,
        gradient: Tensor | None = None,
        threads: int = 1,
    ) -> State:
        """See the class."""
        assert gradient is not None
        unit = state.std[:, None]  # [B, 1, T, A]
        begun, sound, first, second, first_left, second_left, _ = state.memory or _beginning(actions)
        fine = (cost.isfinite() & gradient.isfinite().flatten(2).all(2))[:, :, None, None]  # [B, S, 1, 1]

        # In float64, where the square of no float32 overflows. Powers of beta are running products: unlike torch.pow, a product
        # has the same bits at every place of a tensor.
        slope = gradient.double() * unit
        first = torch.where(fine, FIRST * first + (1 - FIRST) * slope, first)
        second = torch.where(fine, SECOND * second + (1 - SECOND) * slope.square(), second)
        first_left = torch.where(fine, FIRST * first_left, first_left)
        second_left = torch.where(fine, SECOND * second_left, second_left)
        step = (first / (1 - first_left)) / ((second / (1 - second_left)).sqrt() + TINY)
        stepped = (actions - self.learning_rate * unit * step).float()
        moved = torch.where(fine, stepped, (actions + sound) / 2)
        if self.trust_region is not None:
            reach = self.trust_region * unit
            moved = torch.clamp(moved, begun - reach, begun + reach)
        moved = self.clip(moved)

        still = ((moved - actions).abs() <= self.tolerance * unit).flatten(1).all(1)  # [B]
        sound = torch.where(fine, actions, sound)
        found = self.ranked(state, actions, cost, 1, threads=threads)
        return found._replace(
            mean=best(moved, found.elites)[:, 0],
            std=state.std,
            kept=moved,
            memory=(begun, sound, first, second, first_left, second_left, still),
        )

    def converged(self, state: State, first: State) -> Tensor:
        """Which environments' restarts have come to rest: bool [B]."""
        return state.memory[-1]


def _beginning(actions: Tensor) -> tuple[Tensor, ...]:
    """Before the first step, of restarts [B, S, T, A]: where they began, where cost and gradient were last finite, Adam's two
    moments, the powers of its betas [B, S, 1, 1], and who has come to rest [B]."""
    moments = torch.zeros_like(actions, dtype=torch.float64)
    powers = torch.ones_like(moments[:, :, :1, :1])
    still = torch.zeros(len(actions), dtype=torch.bool, device=actions.device)
    return actions, actions, moments, moments, powers, powers, still
