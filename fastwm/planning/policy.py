"""A policy beside the planner: it proposes candidates, and what comes after a warm start."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from fastwm.planning.goal import Goal
from fastwm.planning.inputs import Dynamics, numbers


class Policy(Protocol):
    """Says what to do from latents: a trained action head, an inverse model, a controller."""

    def __call__(
        self,
        context: Tensor,
        past_actions: Tensor | None,
        goal: Goal,
        *,
        count: int,
        horizon: int,
        generator: torch.Generator,
    ) -> Tensor:
        """context [B, K, E], past_actions [B, K-1, A] (None if K = 1) -> `count` proposals [B, count, horizon, A].

        generator: of all randomness; a plan's bits are a batch's only if the policy's are.
        """


def propose(
    policy: Policy,
    context: Tensor,
    past_actions: Tensor | None,
    goal: Goal,
    *,
    count: int,
    horizon: int,
    action_dim: int,
    generator: torch.Generator,
) -> Tensor:
    """What the policy proposes [B, count, T, A], checked. Raises TypeError or ValueError naming the policy."""
    found = policy(context, past_actions, goal, count=count, horizon=horizon, generator=generator)
    return numbers("what the policy proposed", found, (len(context), count, horizon, action_dim))


def continued(
    policy: Policy,
    engine: Dynamics,
    context: Tensor,
    past_actions: Tensor | None,
    goal: Goal,
    begun: Tensor,
    horizon: int,
    generator: torch.Generator,
) -> Tensor:
    """[B, T, A]: the blocks `begun` [B, T', A], then what the policy proposes where the model says that they lead."""
    _, done, A = begun.shape
    if done == horizon:
        return begun
    if done:
        latents = engine.rollout(context, begun[:, None], past_actions, keep="all")[:, 0]  # [B, T', E]
        executed = begun if past_actions is None else torch.cat([past_actions, begun], dim=1)
        context = torch.cat([context, latents], dim=1)[:, -engine.window :]
        frames = context.shape[1]
        past_actions = executed[:, executed.shape[1] - (frames - 1) :] if frames > 1 else None
    rest = propose(
        policy,
        context,
        past_actions,
        goal,
        count=1,
        horizon=horizon - done,
        action_dim=A,
        generator=generator,
    )
    return torch.cat([begun, rest[:, 0]], dim=1)
