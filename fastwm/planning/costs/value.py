"""What a model of rewards or values promises, as a cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from fastwm.planning.costs.cost import Cost
from fastwm.planning.costs.functions import call
from fastwm.planning.goal import Goal


@dataclasses.dataclass(frozen=True)
class Reward(Cost):
    """Minus the discounted sum of rewards, - sum over blocks t = 0 .. T-1 of discount^t * alive_t * r(z_t, a_t).

    function: a module or function, latents [B, S, T, E] and actions [B, S, T, A] in environment units -> rewards [B, S, T] or
    [B, S, T, 1]. z_t is the predicted latent *after* block t, where a_t has led; a reward r(z, a) trained on the latent before
    its action is another function. A plan's bits are a batch's only if the function's are; a module with dropout or batch
    normalisation has to be in eval mode.
    discount: per block, 0 .. 1. survival: takes what `function` takes and returns the probability that the episode goes on
    after block t; alive_t is the product of those of the blocks before t, or 1 without it. A `LatentWAM` with both heads:
    Reward(wam.reward, survival=wam.survival); the blocks that it expects to survive: Reward(wam.survival,
    survival=wam.survival).
    """

    function: Callable[[Tensor, Tensor], Tensor]
    discount: float = 1.0
    survival: Callable[[Tensor, Tensor], Tensor] | None = dataclasses.field(default=None, kw_only=True)
    keep = "all"
    foreign = True

    def __post_init__(self) -> None:
        _check(self.function, self.discount)
        if self.survival is not None and not callable(self.survival):
            raise TypeError(f"survival is {type(self.survival).__name__}, expected a function or module")

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        rewards = self._each("reward", self.function, latents, actions)  # [B, S, T]
        alive = None if self.survival is None else self._each("survival", self.survival, latents, actions)
        total = torch.zeros_like(rewards[..., 0])
        for t in reversed(range(rewards.shape[2])):
            later = self.discount * total
            total = rewards[..., t] + (later if alive is None else alive[..., t] * later)
        return -total

    @staticmethod
    def _each(
        name: str, function: Callable[[Tensor, Tensor], Tensor], latents: Tensor, actions: Tensor
    ) -> Tensor:
        shape = tuple(actions.shape[:3])
        return call(name, function, latents, actions, shapes=(shape, (*shape, 1))).view(shape)


@dataclasses.dataclass(frozen=True)
class Value(Cost):
    """Minus the value of where the plan ends, - discount^T * v(z), z the latent after the last of T blocks.

    function: a module or function, latents [B, S, E] -> values [B, S] or [B, S, 1]; what is said of Reward's holds.
    discount: per block, 0 .. 1; `Reward(r, discount) + Value(v, discount)` is minus the return that TD-MPC2 plans for
    (arXiv:2310.16828).
    """

    function: Callable[[Tensor], Tensor]
    discount: float = 1.0
    foreign = True

    def __post_init__(self) -> None:
        _check(self.function, self.discount)

    def __call__(self, latents: Tensor, actions: Tensor, goal: Goal, *, threads: int = 1) -> Tensor:
        shape = tuple(actions.shape[:2])
        value = call("value", self.function, latents, shapes=(shape, (*shape, 1))).view(shape)
        return -(self.discount ** actions.shape[2]) * value


def _check(function: object, discount: object) -> None:
    if not callable(function):
        raise TypeError(f"function is {type(function).__name__}, expected a function or module")
    if isinstance(discount, bool) or not isinstance(discount, (int, float)) or not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount is {discount!r}, expected 0 <= discount <= 1")
