"""Rewards and values as costs: against loops, as functions and as modules."""

from __future__ import annotations

import pytest
import tiny_engine
import torch
from tiny_engine import TinyEngine
from torch import Tensor, nn

from fastwm import CEM, Goal, GoalDistance, Planner, Reward, Value

B, S, T, A, E = 2, 5, 4, 3, 6


def problem() -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return torch.randn(B, S, T, E, generator=random), torch.randn(B, S, T, A, generator=random)


class Head(nn.Module):
    """latents [..., E] (and actions [..., A]) -> [..., 1]"""

    def __init__(self, size: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(size, 1)

    def forward(self, latents: Tensor, actions: Tensor | None = None) -> Tensor:
        x = latents if actions is None else torch.cat([latents, actions], dim=-1)
        return self.linear(x).tanh()


@pytest.mark.parametrize("discount", [1.0, 0.7, 0.0])
def test_rewards_are_summed_of_the_latents_that_the_actions_lead_to(discount: float) -> None:
    latents, actions = problem()
    head = Head(E + A)
    expected = torch.zeros(B, S)
    for b in range(B):
        for s in range(S):
            for t in range(T):
                expected[b, s] -= discount**t * head(latents[b, s, t], actions[b, s, t])[0]
    assert Reward(head).keep == "all"
    for function in (head, lambda z, a: head(z, a)[..., 0]):
        found = Reward(function, discount)(latents, actions, Goal())
        assert torch.allclose(found, expected, atol=1e-6)


def test_the_value_is_that_of_the_last_latent() -> None:
    latents, actions = problem()
    head = Head(E)
    expected = torch.zeros(B, S)
    for b in range(B):
        for s in range(S):
            expected[b, s] = -(0.9**T) * head(latents[b, s, -1])[0]
    assert Value(head).keep == "last"
    for function in (head, lambda z: head(z)[..., 0]):
        assert torch.allclose(Value(function, 0.9)(latents[:, :, -1], actions, Goal()), expected, atol=1e-6)
    total = Reward(lambda z, a: z[..., 0], 0.9) + Value(head, 0.9)  # a sum keeps all, Value reads the last
    rewards = (latents[..., 0] * 0.9 ** torch.arange(T)).sum(-1)
    assert torch.allclose(total(latents, actions, Goal()), expected - rewards, atol=1e-5)


def test_a_reward_of_distance_plans_as_the_distance_does() -> None:
    """-|z - g|^2 as a reward of every step and a value: the plans of the same cost as a sum over steps."""
    tiny = TinyEngine(A, E)
    obs, goal = tiny_engine.problem(B, frames=1, A=A, E=E)
    aim = goal[0]
    promised = Reward(lambda z, a: -(z - aim).square().sum(-1), 0.5) + Value(
        lambda z: -(z - aim).square().sum(-1), 0.5
    )
    weights = [1, 0.5, 0.25, 0.125 + 0.0625]
    cem = CEM(iterations=10)
    ours = Planner(tiny, cem, T, cost=promised).plan(obs, generator=0)
    theirs = Planner(tiny, cem, T, cost=GoalDistance(weights=weights)).plan(obs, aim, generator=0)
    assert torch.allclose(ours.actions, theirs.actions, atol=1e-3)
    assert torch.allclose(ours.cost, theirs.cost, rtol=1e-4)


def test_gradients_reach_latents_and_actions() -> None:
    latents, actions = problem()
    head, value = Head(E + A), Head(E)
    ours = [x.clone().requires_grad_() for x in (latents, actions)]
    (Reward(head, 0.5) + Value(value, 0.5))(*ours, Goal()).sum().backward()
    theirs = [x.clone().requires_grad_() for x in (latents, actions)]
    rewards = head(*theirs)[..., 0] * 0.5 ** torch.arange(T)
    (-rewards.sum() - 0.5**T * value(theirs[0][:, :, -1]).sum()).backward()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)
        assert one.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Reward(3), TypeError, "function is int"),
        (lambda: Value("v"), TypeError, "function is str"),
        (lambda: Reward(Head(E), 1.1), ValueError, "discount is 1.1"),
        (lambda: Value(Head(E), -0.1), ValueError, "discount is -0.1"),
        (lambda: Value(Head(E), True), ValueError, "discount is True"),
        (lambda: Value(Head(E), float("nan")), ValueError, "discount is nan"),
    ],
)
def test_bad_arguments_are_refused(make, error, message) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("cost", "error", "message"),
    [
        (Reward(lambda z, a: z), ValueError, r"reward returned a tensor of shape \(2, 5, 4, 6\), expected \[2, 5, 4\] or"),
        (Reward(lambda z, a: z[:, :, -1, 0]), ValueError, "reward returned a tensor of shape"),
        (Reward(lambda z: z), RuntimeError, "reward failed"),
        (Value(lambda z: 0.0), TypeError, "value returned float"),
        (Value(lambda z: z.sum()), ValueError, r"value returned a tensor of shape \(\)"),
        (Value(Head(E + 1)), RuntimeError, r"value failed on tensors of shape \(2, 5, 6\)"),
    ],
)  # fmt: skip
def test_what_a_function_gets_wrong_is_said(cost, error, message) -> None:
    latents, actions = problem()
    with pytest.raises(error, match=message):
        cost(latents if cost.keep == "all" else latents[:, :, -1], actions, Goal())
