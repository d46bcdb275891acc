"""The agent: what it remembers, when it plans, and that it arrives."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_engine import StateEngine, TinyEngine

from fastwm import CEM, Agent, Goal, GoalDistance, Planner

A, E, T = 2, 4, 3


class Recorder(Planner):
    """A planner that remembers what it was asked."""

    def plan(self, obs, goal, **options):
        found = super().plan(obs, goal, **options)
        self.asked = [*getattr(self, "asked", []), {"obs": obs, "goal": goal, "plan": found, **options}]
        return found


def recorder(**options) -> Recorder:
    return Recorder(
        TinyEngine(A, E, mean=0.25), CEM(samples=40, elites=5, iterations=3, std=0.1, **options), T
    )


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)


def test_the_context_is_the_last_frames_and_the_blocks_between_them() -> None:
    planner = recorder()
    agent = Agent(planner, history=3)
    frames, goal = images(5), images(1, seed=1)[0]
    blocks = [agent.act(frame, goal) for frame in frames]
    latents = planner.engine.encode(frames)[:, 0]
    for t, asked in enumerate(planner.asked):
        first = max(0, t - 2)
        assert torch.equal(asked["obs"]["latents"][0], latents[first : t + 1])
        assert torch.equal(
            asked["obs"]["past_actions"][0], torch.from_numpy(np.stack([*blocks[first:t], blocks[t]])[:-1])
        )
        assert np.array_equal(blocks[t], asked["plan"].actions[0, 0].numpy())


def test_plans_start_from_the_rest_of_the_last_one() -> None:
    planner = recorder()
    agent = Agent(planner)
    for frame in images(3):
        agent.act(frame, images(1, seed=1))
    first, second, third = planner.asked
    assert torch.equal(first["warm_start"].mean, torch.full((1, T - 1, A), 0.25))
    assert torch.equal(second["warm_start"].mean, first["plan"].actions[:, 1:])
    assert torch.equal(third["warm_start"].mean, second["plan"].actions[:, 1:])


def test_several_blocks_of_a_plan_are_executed() -> None:
    planner = recorder()
    agent = Agent(planner, replan_every=2)
    blocks = [agent.act(frame, images(1, seed=1)) for frame in images(5)]
    assert len(planner.asked) == 3
    planned = torch.cat([asked["plan"].actions[0, :2] for asked in planner.asked])[:5]
    assert np.array_equal(np.stack(blocks), planned.numpy())
    assert torch.equal(planner.asked[1]["warm_start"].mean, planner.asked[0]["plan"].actions[:, 2:])


def test_batching_and_type_follow_the_observation() -> None:
    frames, goal = images(3), images(1, seed=1)
    single, batched = Agent(recorder()), Agent(recorder())
    assert single.act(frames[0], goal).shape == (A,)
    assert batched.act(frames, goal).shape == (3, A)
    assert isinstance(batched.act(frames, goal), np.ndarray)
    assert isinstance(batched.act(torch.from_numpy(frames), goal), torch.Tensor)


def test_a_batch_is_planned_at_once_with_one_stream_each() -> None:
    planner = recorder()
    Agent(planner).act(images(4), images(4, seed=1))
    assert len(planner.asked) == 1
    assert planner.asked[0]["environments"].tolist() == [0, 1, 2, 3]
    goals = planner.engine.encode(images(4, seed=1))[:, 0]
    assert torch.equal(planner.asked[0]["goal"].latents[:, 0], goals)


@pytest.mark.parametrize("which", [[1], np.array([False, True, False]), torch.tensor([1])])
def test_reset_of_one_environment_leaves_the_others(which) -> None:
    planner = recorder()
    agent = Agent(planner, history=2)
    goal = images(1, seed=1)
    for t in range(2):
        agent.act(images(3, seed=10 + t), goal)
    before = planner.asked[-1]["plan"].actions
    agent.reset(which)
    agent.act(images(3, seed=12), goal)
    fresh, others = planner.asked[-2:]
    assert fresh["environments"].tolist() == [1]
    assert others["environments"].tolist() == [0, 2]
    assert fresh["obs"]["latents"].shape == (1, 1, E)
    assert others["obs"]["latents"].shape == (2, 2, E)
    assert torch.equal(fresh["warm_start"].mean, torch.full((1, T - 1, A), 0.25))
    assert torch.equal(others["warm_start"].mean, before[[0, 2], 1:])
    assert torch.equal(others["obs"]["latents"][:, 0], planner.engine.encode(images(3, seed=11))[[0, 2], 0])


def test_reset_of_all_starts_anew_with_any_batch() -> None:
    planner = recorder()
    agent = Agent(planner, history=2)
    agent.act(images(3), images(1, seed=1))
    with pytest.raises(ValueError, match="obs is a batch of 2, the agent has one of 3"):
        agent.act(images(2), images(1, seed=1))
    agent.reset()
    assert agent.act(images(2), images(1, seed=1)).shape == (2, A)
    assert planner.asked[-1]["obs"]["latents"].shape == (2, 1, E)


def test_a_call_that_fails_leaves_the_agent_as_it_was() -> None:
    planner = recorder()
    agent = Agent(planner, history=3)
    agent.act(images(1), images(1, seed=1))
    with pytest.raises(ValueError, match="goal holds numbers"):
        agent.act(images(1), torch.full((1, E), math.nan))
    agent.act(images(1, seed=2), images(1, seed=1))
    assert planner.asked[-1]["obs"]["latents"].shape == (1, 2, E)


def test_a_goal_is_encoded_once_until_it_changes() -> None:
    planner = recorder()
    agent = Agent(planner)
    goal = images(1, seed=1)
    for _ in range(3):
        agent.act(images(1), goal)
    assert planner.engine.encoded == 4
    goal[0, 0, 0, 0] ^= 255  # in place
    agent.act(images(1), goal)
    assert planner.engine.encoded == 6
    assert torch.equal(planner.asked[-1]["goal"].latents[:, 0], planner.engine.encode(goal)[:, 0])


def test_the_deadline_is_shared_by_the_plans_of_a_call() -> None:
    planner = recorder()
    agent = Agent(planner, history=2)
    agent.act(images(2), images(1, seed=1), deadline=60.0)
    agent.reset([0])
    agent.act(images(2), images(1, seed=1), 60.0)
    whole, half, rest = (asked["deadline"] for asked in planner.asked)
    assert 50 < whole <= 60
    assert 25 < half <= 30
    assert 50 < rest <= 60
    agent.act(images(2), images(1, seed=1))
    assert planner.asked[-1]["deadline"] is None


def test_the_last_plan_is_there_to_look_at() -> None:
    planner = recorder()
    agent = Agent(planner, history=2, replan_every=2)
    assert agent.plan is None
    for t in range(3):
        agent.act(images(2, seed=t), images(1, seed=1))
        assert agent.plan is planner.asked[-1]["plan"]
    assert len(planner.asked) == 2
    with pytest.raises(ValueError, match="goal holds numbers"):
        agent.act(images(2), torch.full((1, E), math.nan))
    assert agent.plan is planner.asked[-1]["plan"]
    agent.reset([0])
    agent.act(images(2), images(1, seed=1), deadline=1e-6)
    assert agent.plan.deadline_hit
    agent.reset()
    assert agent.plan is None


def test_two_agents_with_equal_seeds_act_alike() -> None:
    one, two = Agent(recorder()), Agent(recorder())
    for t in range(3):
        acted = [agent.act(images(2, seed=t), images(1, seed=9)) for agent in (one, two)]
        assert np.array_equal(*acted)
    assert not np.array_equal(one.act(images(2), images(1, seed=9)), two.act(images(2), images(1, seed=8)))


def test_the_agent_arrives() -> None:
    """The world is the model: from anywhere, a few bounded blocks bring the state to the goal."""
    tiny = TinyEngine(E, E)
    tiny.matrix = torch.linalg.qr(tiny.matrix).Q  # every direction as easy to reach
    tiny.encode = lambda obs: torch.as_tensor(obs).flatten(1)[:, None, :E].float()
    cem = CEM(iterations=10, low=-0.5, high=0.5)
    planner = Planner(tiny, cem, T, cost=GoalDistance(reduce="mean"))
    agent = Agent(planner, history=2)
    random = torch.Generator().manual_seed(0)
    state, goal = torch.randn(3, E, generator=random), torch.randn(3, E, generator=random)
    start = (state - goal).norm(dim=-1)
    for _ in range(12):
        block = agent.act(state.view(3, 2, 2, 1), goal)
        assert block.abs().max() <= 0.5
        state = state + block @ tiny.matrix
    assert ((state - goal).norm(dim=-1) < 0.05 * start).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": 0}, "history is 0"),
        ({"history": 4}, "history is 4, expected an integer from 1 to 3"),
        ({"replan_every": 4}, "replan_every is 4"),
        ({"replan_every": 1.0}, "replan_every is 1.0"),
    ],
)
def test_bad_options_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        Agent(recorder(), **options)


def test_bad_calls_are_refused() -> None:
    agent = Agent(recorder())
    with pytest.raises(ValueError, match="deadline is nan"):
        agent.act(images(1), images(1), deadline=math.nan)
    with pytest.raises(ValueError, match="obs has shape"):
        agent.act(images(4).reshape(2, 2, 2, 2, 3), images(1))
    with pytest.raises(TypeError, match="obs is dict"):
        agent.act({"pixels": images(1)}, images(1))
    with pytest.raises(TypeError, match="goal is list"):
        agent.act(images(1), [1.0])
    agent.act(images(2), images(1))
    for wrong in (0, [2], [-1], [0.5], np.array([True]), torch.zeros(2, 2, dtype=torch.bool)):
        with pytest.raises(ValueError, match="environments is"):
            agent.reset(wrong)


# ---- what a plan leaves to the next ----


def test_the_next_plan_starts_from_the_std_and_tries_the_best_again() -> None:
    planner = recorder(keep=3, warm_std=True, return_best=True)
    agent = Agent(planner)
    for frame in images(3):
        agent.act(frame, images(1, seed=1))
    first, second, third = planner.asked
    assert first["warm_start"].kept is None
    for before, after in ((first, second), (second, third)):
        assert torch.equal(after["warm_start"].std, before["plan"].std[:, 1:])
        assert torch.equal(after["warm_start"].kept, before["plan"].kept[:, :, 1:])
        assert (after["plan"].std[:, :-1] < 0.1).all()  # it went on narrowing


def test_kept_candidates_are_those_of_the_first_iteration() -> None:
    seen = []
    planner = recorder(keep=3)
    obs, goal = {"latents": torch.zeros(1, 1, E)}, torch.ones(E)
    first = planner.plan(obs, goal)
    planner.plan(obs, goal, warm_start=first, callback=seen.append)
    rest = torch.full((1, 3, 1, A), 0.25)
    assert torch.equal(seen[0].actions[:, 1:4], torch.cat([first.kept[:, :, 1:], rest], dim=2))


def test_an_environment_that_starts_anew_has_nothing_to_try_again() -> None:
    planner, alone = recorder(keep=3), recorder(keep=3)
    agent, single = Agent(planner), Agent(alone)
    frames, goal = images(2), images(1, seed=1)
    agent.act(frames, goal)
    agent.reset([1])
    agent.act(frames, goal)
    fresh = next(asked for asked in planner.asked[1:] if asked["environments"].tolist() == [1])
    assert fresh["warm_start"].kept is None
    alone.next_seed()
    single.act(frames[1], goal)
    again = alone.plan(
        {"latents": alone.engine.encode(frames[1:])}, goal, generator=fresh["generator"], environments=[1]
    )
    assert torch.equal(again.actions, fresh["plan"].actions)


def test_goals_in_order_are_left_behind_when_arrived_at() -> None:
    planner = Recorder(StateEngine(A, E), CEM(samples=20, elites=4, iterations=1), T)
    agent = Agent(planner, arrive=0.01)
    goals = torch.randn(2, 3, E)
    state = torch.randn(2, E)
    seen = []
    for place in ([None, None], [0, None], [0, 1], [1, None], [2, 0]):
        for b, goal in enumerate(place):
            if goal is not None:
                state[b] = goals[b, goal] + 0.01
        agent.act(state, {"latents": goals})
        seen.append(planner.asked[-1]["goal"].reached.tolist())
    assert seen == [[0, 0], [1, 0], [1, 0], [2, 0], [2, 1]]
    agent.reset([0])
    agent.act(state, {"latents": goals})
    assert planner.asked[-1]["goal"].reached.tolist() == [0, 1]


def test_of_new_goals_in_order_none_is_behind() -> None:
    planner = Recorder(StateEngine(A, E), CEM(samples=20, elites=4, iterations=1), T)
    agent = Agent(planner, arrive=0.01)
    goals, state = torch.randn(2, 3, E), torch.randn(2, E)
    for place in (0, 1):
        agent.act(goals[:, place], {"latents": goals})
    assert planner.asked[-1]["goal"].reached.tolist() == [2, 2]
    goals[1] += 10.0  # in the array that the agent was given before
    agent.act(state, {"latents": goals})
    assert planner.asked[-1]["goal"].reached.tolist() == [2, 0]
    agent.act(state, {"latents": goals[:, :2]})
    assert planner.asked[-1]["goal"].reached.tolist() == [0, 0]
    agent.act(state, Goal(goals[:, :2], reached=torch.tensor([1, 0])))
    assert planner.asked[-1]["goal"].reached.tolist() == [1, 0]


def test_a_goal_is_what_it_was_when_it_was_given() -> None:
    planner = recorder()
    agent, goal, frame = Agent(planner), torch.ones(1, E), images(1)[0]
    agent.act(frame, goal)
    goal.fill_(-7.0)  # the caller's tensor, not the agent's
    agent.act(frame, torch.ones(1, E))
    assert torch.equal(planner.asked[-1]["goal"].latents, torch.ones(1, 1, E))


@pytest.mark.parametrize("history", [1, 2])
def test_a_policy_begins_where_there_is_no_plan(history: int) -> None:
    def policy(context, past_actions, goal, *, count, horizon, generator):
        # It says where it was asked.
        return context[:, -1, None, None, :A].expand(-1, count, horizon, -1).clone()

    planner = Planner(StateEngine(A, E), CEM(20, 4, 1), T, policy=policy)
    agent, last = Agent(planner, history=history), [0.0] * 3
    for call, fresh in enumerate(([0, 1, 2], [], [1])):
        agent.reset(fresh)
        state = call + 1.0
        last = [state if b in fresh else before for b, before in enumerate(last)]
        block = agent.act(torch.full((3, E), state), torch.zeros(E), deadline=0.0)  # no time to search
        assert torch.equal(block, torch.tensor(last)[:, None].expand(3, A))
