"""The agent that plans ahead: what it returns, when it has nothing, and when it is late."""

from __future__ import annotations

import threading

import pytest
import torch
from tiny_engine import StateEngine
from torch import Tensor

from fastwm import CEM, ICEM, Agent, AsyncAgent, Planner

A, E, T, B = 2, 4, 3, 3
CLOSE = CEM(samples=40, elites=5, iterations=3)


def planner(search=CLOSE, delay: float = 0.0) -> Planner:
    return Planner(StateEngine(A, E, mean=0.25, delay=delay), search, T)


def states(seed: int = 0) -> Tensor:
    return torch.randn(B, E, generator=torch.Generator().manual_seed(seed))


def drive(agent: Agent, calls: int, resets: dict[int, list[int]] | None = None) -> list[Tensor]:
    """The blocks of some calls in a world that is what the model says; `resets`: environments put back before a call."""
    state, goal, blocks = states(), states(1), []
    for call in range(calls):
        if resets and call in resets:
            agent.reset(resets[call])
            state[resets[call]] = states(2)[resets[call]]
        blocks.append(agent.act(state, goal))
        state = agent.planner.engine.step(state, blocks[-1])
    return blocks


@pytest.mark.parametrize("history", [1, 3])
@pytest.mark.parametrize(
    "search", [CLOSE, ICEM(40, 5, 3), CEM(40, 5, 3, warm_std=True)], ids=["cem", "icem", "std"]
)
def test_where_the_model_is_right_it_acts_as_an_agent_that_waits(history: int, search) -> None:
    waiting = drive(Agent(planner(search), history=history), 6)
    with AsyncAgent(planner(search), history=history) as agent:
        assert all(torch.equal(a, b) for a, b in zip(drive(agent, 6), waiting, strict=True))
        assert agent.late == 0


def test_an_environment_that_was_reset_is_planned_anew_and_the_others_are_not() -> None:
    with AsyncAgent(planner(), history=2) as agent, AsyncAgent(planner(), history=2) as same:
        blocks, undisturbed = drive(agent, 4, {2: [1]}), drive(same, 4)
    assert all(torch.equal(a, b) for a, b in zip(blocks[:2], undisturbed[:2], strict=True))
    for other in (0, 2):
        assert torch.equal(blocks[2][other], undisturbed[2][other])
    assert not torch.equal(blocks[2][1], undisturbed[2][1])


def test_a_goal_that_changes_is_planned_for_at_once() -> None:
    with AsyncAgent(planner()) as agent:
        agent.act(states(), states(1))
        agent.act(states(), states(3))
        engine, actions = agent.planner.engine, agent.plan.actions
        found = engine.rollout(states()[:, None], actions[:, None])[:, 0]  # [B, E]
    assert ((found - states(3)).square().sum(-1) < 0.7 * (states() - states(3)).square().sum(-1)).all()
    assert ((found - states(1)).square().sum(-1) > (found - states(3)).square().sum(-1)).all()


def test_a_late_plan_is_not_waited_for() -> None:
    gate = threading.Event()

    class Slow(StateEngine):
        def rollout(self, *arguments, **options):
            if threading.current_thread() is not threading.main_thread():
                assert gate.wait(30)
            return super().rollout(*arguments, **options)

    agent = AsyncAgent(Planner(Slow(A, E, mean=0.25), CLOSE, T))
    state, goal = states(), states(1)
    agent.act(state, goal)
    plan = agent.plan
    for place in (1, 2):
        block = agent.act(state, goal, deadline=0.02)
        assert torch.equal(block, plan.actions[:, place])
    assert agent.late == 2
    gate.set()
    assert not torch.equal(agent.act(state, goal), torch.full((B, A), 0.25))
    agent.close()


def test_an_error_of_the_planning_is_raised_by_the_next_call_and_then_forgotten() -> None:
    class Broken(StateEngine):
        broken = False

        def rollout(self, *arguments, **options):
            latents = super().rollout(*arguments, **options)
            return latents * float("nan") if self.broken else latents

    with AsyncAgent(Planner(Broken(A, E), CLOSE, T)) as agent:
        state, goal = states(), states(1)
        agent.planner.engine.broken = True
        with pytest.raises(RuntimeError, match="every candidate"):
            agent.act(state, goal)
        agent.planner.engine.broken = False
        agent.act(state, goal)
        agent._ahead.future.result()
        agent.act(state, goal)


def test_closing_ends_it() -> None:
    agent = AsyncAgent(planner())
    agent.act(states(), states(1))
    agent.close()
    with pytest.raises(RuntimeError, match="closed"):
        agent.act(states(), states(1))
    with pytest.raises(ValueError, match="period is 0"):
        AsyncAgent(planner(), period=0)
