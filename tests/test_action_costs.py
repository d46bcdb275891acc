"""Costs of actions: against loops."""

from __future__ import annotations

import itertools

import pytest
import tiny_engine
import torch
from tiny_engine import TinyEngine

from fastwm import CEM, ActionPenalty, Goal, GoalDistance, Planner, Smoothness

B, S, T, A = 2, 5, 3, 6
ACTIONS = torch.randn(B, S, T, A, generator=torch.Generator().manual_seed(0))
LATENTS = torch.zeros(B, S, 4)


@pytest.mark.parametrize("steps", [1, 2, 3, 6])
def test_smoothness_sums_over_successive_actions(steps: int) -> None:
    expected = torch.zeros(B, S)
    for b in range(B):
        for s in range(S):
            row = [
                block[i * A // steps : (i + 1) * A // steps] for block in ACTIONS[b, s] for i in range(steps)
            ]
            expected[b, s] = sum((y - x).square().sum() for x, y in itertools.pairwise(row))
    found = Smoothness(steps)(LATENTS, ACTIONS, Goal())
    assert torch.allclose(found, expected, rtol=1e-5)


def test_one_action_is_smooth() -> None:
    assert not Smoothness()(LATENTS, ACTIONS[:, :, :1], Goal()).any()
    assert Smoothness(2)(LATENTS, ACTIONS[:, :, :1], Goal()).all()


@pytest.mark.parametrize("cost", [ActionPenalty(), Smoothness(), Smoothness(3)])
def test_gradients_reach_the_actions(cost) -> None:
    actions = ACTIONS.clone().requires_grad_()
    cost(LATENTS, actions, Goal()).sum().backward()
    change = torch.randn(ACTIONS.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def exact(x: torch.Tensor) -> torch.Tensor:
        if isinstance(cost, Smoothness):
            x = x.reshape(B, S, T * cost.steps, -1).diff(dim=2)
        return x.square().sum()

    slope = (exact(ACTIONS + 1e-6 * change) - exact(ACTIONS - 1e-6 * change)) / 2e-6
    assert (actions.grad * change).sum().item() == pytest.approx(slope.item(), rel=1e-4)


def test_a_smooth_plan_is_smoother() -> None:
    obs, goal = tiny_engine.problem(B, frames=1, A=2, E=5)
    rough, smooth = (
        Planner(TinyEngine(2, 5), CEM(iterations=30), 4, cost=cost).plan(obs, goal, generator=0)
        for cost in (GoalDistance(), GoalDistance() + 0.1 * Smoothness())
    )
    assert (smooth.actions.diff(dim=1).square().sum() < 0.1 * rough.actions.diff(dim=1).square().sum()).all()
    assert torch.allclose(smooth.actions.sum(1), rough.actions.sum(1), atol=0.1)  # it goes to the same place


def test_bad_steps_are_refused() -> None:
    for steps in (0, 1.5, True):
        with pytest.raises(ValueError, match="steps is"):
            Smoothness(steps)
    with pytest.raises(ValueError, match="steps is 4, expected a divisor of 6"):
        Smoothness(4)(LATENTS, ACTIONS, Goal())
