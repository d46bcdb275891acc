"""The agent that plans ahead: what it returns, when it has nothing, and when it is late."""

from __future__ import annotations

import threading
import time

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


class Gated(StateEngine):
    """Rollouts of other threads than the main one wait for the gate; they are counted."""

    def __init__(self) -> None:
        super().__init__(A, E, mean=0.25)
        self.gate, self.ahead = threading.Event(), 0

    def rollout(self, *arguments, **options):
        if threading.current_thread() is not threading.main_thread():
            assert self.gate.wait(30)
            self.ahead += 1
        return super().rollout(*arguments, **options)


def test_plans_that_nobody_waits_for_any_more_are_not_made() -> None:
    engine = Gated()
    with AsyncAgent(Planner(engine, CLOSE, T)) as agent:
        for _ in range(20):
            agent.act(states(), states(1), deadline=0.0)
        assert agent.late == 19
        engine.gate.set()
        agent._ahead.future.result()
    assert engine.ahead == 2 * (1 + CLOSE.iterations)  # the one that had begun, and the last


def test_the_period_begins_with_the_call_though_the_thread_is_busy() -> None:
    engine = Gated()
    with AsyncAgent(Planner(engine, CLOSE, T), period=0.02) as agent:
        agent.act(states(), states(1))
        agent.act(states(), states(1), deadline=0.0)
        time.sleep(0.05)
        engine.gate.set()
        _, plan = agent._ahead.future.result()
        assert plan.stats["end"] == "fallback"


def test_a_timeout_of_the_cost_is_an_error_and_not_a_late_plan() -> None:
    def cost(latents: Tensor, actions: Tensor) -> Tensor:
        if threading.current_thread() is not threading.main_thread():
            raise TimeoutError("no answer")
        return latents.sum((-1, -2))

    with AsyncAgent(Planner(StateEngine(A, E), CLOSE, T, cost=cost)) as agent:
        agent.act(states())
        with pytest.raises(TimeoutError, match="no answer"):
            agent.act(states())
        assert agent.late == 0


def test_a_goal_whose_array_is_written_to_is_another_goal() -> None:
    with AsyncAgent(planner()) as agent:
        goal = states(1).numpy()
        agent.act(states(), {"latents": goal})
        _, made = agent._ahead.future.result()
        goal += 10.0
        agent.act(states(), {"latents": goal})
        assert agent.plan is not made


def test_another_process_has_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    with AsyncAgent(planner()) as agent:
        agent.act(states(), states(1))
        monkeypatch.setattr("fastwm.planning.async_agent.os.getpid", lambda: 1)
        with pytest.raises(RuntimeError, match="before a fork"):
            agent.act(states(), states(1))


@pytest.mark.parametrize("period", [float("inf"), float("nan"), True, -1.0])
def test_a_bad_period_is_refused(period) -> None:
    with pytest.raises(ValueError, match="period is"):
        AsyncAgent(planner(), period=period)
