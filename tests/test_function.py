"""Planning with a function of one's own: gymnasium's pendulum is the oracle."""

from __future__ import annotations

import sys
import time

import gymnasium
import numpy as np
import pendulum
import pytest
import torch

import fastwm
from fastwm.planning import FunctionDynamics

SEARCH = fastwm.CEM(samples=64, elites=8, iterations=8)


@pytest.fixture(params=pendulum.LIBRARIES)
def arrays(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param, reason=f"{request.param} is not installed")
    return request.param


def point(arrays: str = "torch", cost=None, search=SEARCH, horizon: int = 4, **options) -> fastwm.Planner:
    """A point in the plane that an action moves by itself."""
    return fastwm.Planner.from_function(
        lambda states, actions: states + actions,
        cost,
        search,
        horizon,
        state_dim=2,
        action_dim=2,
        arrays=arrays,  # type: ignore[arg-type]
        **options,
    )


def test_a_rollout_is_what_the_environment_does(arrays: str) -> None:
    dynamics = FunctionDynamics(pendulum.make_step(arrays), state_dim=3, action_dim=1, arrays=arrays)  # type: ignore[arg-type]
    env = gymnasium.make("Pendulum-v1").unwrapped
    starts = [[3.1, 0.5], [-1.0, 7.5]]
    actions = torch.empty(2, 4, 6, 1).uniform_(-3, 3, generator=torch.Generator().manual_seed(0))
    truth = torch.zeros(2, 4, 6, 3)
    context = torch.zeros(2, 1, 3)
    for b, s in np.ndindex(2, 4):
        env.reset()
        env.state, env.last_u = np.array(starts[b]), None
        context[b, 0] = torch.from_numpy(env._get_obs())
        for t in range(6):
            truth[b, s, t] = torch.from_numpy(env.step(actions[b, s, t].numpy())[0])
    found = dynamics.rollout(context, actions, keep="all")
    assert (found - truth).abs().max() < 2e-5
    assert torch.equal(dynamics.rollout(context, actions), found[:, :, -1])


def test_an_agent_swings_the_pendulum_up(arrays: str) -> None:
    env = gymnasium.make("Pendulum-v1")
    agent = fastwm.Agent(pendulum.planner(arrays))
    env.reset()
    env.unwrapped.state, upright = np.array([np.pi, 0.0]), []  # hanging at rest
    obs = np.array([-1.0, 0.0, 0.0], np.float32)
    for _ in range(80):
        action = agent.act(obs)
        assert isinstance(action, np.ndarray)
        assert env.action_space.contains(action)
        obs = env.step(action)[0]
        upright.append(obs[0])
    assert min(upright[-15:]) > 0.97


def test_plans_reach_a_goal_and_are_alike(arrays: str) -> None:
    obs, goal = np.array([[0.0, 0.0], [1.0, -1.0]]), np.array([2.0, 1.0])
    search = fastwm.CEM(samples=200, elites=20, iterations=12)
    plan = point(arrays, search=search).plan(obs, goal, generator=3)
    assert (plan.actions.sum(1) + torch.from_numpy(obs) - torch.from_numpy(goal)).abs().max() < 0.05
    assert torch.allclose(plan.actions, point(search=search).plan(obs, goal, generator=3).actions, atol=1e-4)


def test_one_call_steps_all_candidates_of_all_environments() -> None:
    seen = []

    def step(states, actions):
        seen.append((tuple(states.shape), tuple(actions.shape)))
        return states + actions

    dynamics = FunctionDynamics(step, state_dim=2, action_dim=2)
    dynamics.rollout(torch.zeros(3, 1, 2), torch.zeros(3, 5, 4, 2))
    assert seen == [((15, 2), (15, 2))] * 4


def test_states_are_encoded_as_they_are() -> None:
    dynamics = point().engine
    states = np.arange(12, dtype=np.float64).reshape(3, 2, 2)
    assert torch.equal(dynamics.encode(states), torch.from_numpy(states).float())
    assert torch.equal(dynamics.encode(states[0]), torch.from_numpy(states[0]).float()[:, None])
    assert torch.equal(dynamics.encode(states[0, 1]), torch.tensor([[[2.0, 3.0]]]))


@pytest.mark.parametrize("arrays", ["torch", "numpy"])
def test_functions_may_write_to_what_they_are_given(arrays: str) -> None:
    def step(states, actions):
        actions *= 2
        states += actions
        return states

    def cost(latents, actions):
        latents *= 0
        actions += 5
        return latents[..., 0].sum(-1)

    planner = fastwm.Planner.from_function(
        step,
        cost,
        SEARCH,
        3,
        state_dim=2,
        action_dim=2,
        arrays=arrays,  # type: ignore[arg-type]
    )
    actions = torch.randn(1, 1, 3, 2, generator=torch.Generator().manual_seed(0))
    context, given = torch.ones(1, 1, 2), actions.clone()
    latents = planner.engine.rollout(context, actions, keep="all")
    expected = 1 + 2 * given.cumsum(2)
    assert torch.allclose(latents, expected)
    planner.cost(latents, actions, planner.goal(None, 1))
    assert torch.equal(actions, given)
    assert torch.equal(context, torch.ones(1, 1, 2))
    assert torch.allclose(latents, expected)


@pytest.mark.parametrize("arrays", ["torch", "numpy"])
def test_a_function_may_return_one_array_again_and_again(arrays: str) -> None:
    xp = pendulum.library(arrays)
    own = xp.zeros((2, 1), dtype=xp.float32)

    def step(states, actions):
        own[:] = states + actions
        return own

    dynamics = FunctionDynamics(step, state_dim=1, action_dim=1, arrays=arrays)  # type: ignore[arg-type]
    actions = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])[None]
    assert dynamics.rollout(torch.zeros(1, 1, 1), actions, keep="all").flatten().tolist() == [1, 3, 3, 7]


def test_no_step_starts_after_its_time() -> None:
    calls = []

    def step(states, actions):
        calls.append(1)
        time.sleep(0.02)
        return states + actions

    dynamics = FunctionDynamics(step, state_dim=1, action_dim=1)
    found = dynamics.rollout(torch.zeros(1, 1, 1), torch.ones(1, 2, 9, 1), keep="all", seconds=0.03)
    assert 1 <= len(calls) <= 2
    assert found[0, :, : len(calls)].isfinite().all()
    assert found[0, :, len(calls) :].isnan().all()
    assert dynamics.rollout(torch.zeros(1, 1, 1), torch.ones(1, 2, 9, 1), seconds=-1.0).isnan().all()


def test_gradients_flow_to_the_actions_of_a_torch_function() -> None:
    dynamics = FunctionDynamics(lambda z, a: z + a**2, state_dim=1, action_dim=1)
    actions = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 3, 1).requires_grad_()
    dynamics.rollout(torch.zeros(1, 1, 1), actions).sum().backward()
    assert actions.grad is not None
    assert actions.grad.flatten().tolist() == [2.0, 4.0, 6.0]


def test_candidates_without_a_number_are_the_worst(arrays: str) -> None:
    xp = pendulum.library(arrays)
    planner = fastwm.Planner.from_function(
        lambda states, actions: xp.where(actions > 0.2, xp.nan, states + actions),
        lambda states, actions: -states[..., -1, 0],  # as far as possible
        fastwm.CEM(samples=200, elites=10, iterations=5, return_best=True),
        2,
        state_dim=1,
        action_dim=1,
        arrays=arrays,  # type: ignore[arg-type]
    )
    plan = planner.plan(np.zeros(1))
    assert plan.stats["non_finite"].item() > 100
    assert 0.1 < plan.actions.min() <= plan.actions.max() <= 0.2


def test_where_a_search_begins_and_how_widely() -> None:
    planner = point(action_mean=[1.0, -2.0], action_std=0.5)
    assert torch.equal(planner.engine.action_mean, torch.tensor([1.0, -2.0]))
    plan = planner.plan(np.zeros(2), np.zeros(2), deadline=-1.0)
    assert torch.equal(plan.actions, torch.tensor([1.0, -2.0]).expand(1, 4, 2))
    assert torch.equal(plan.std, torch.full((1, 4, 2), 0.5))


def test_a_path_leads_round_an_obstacle() -> None:
    def cost(states, actions):
        inside = (states - torch.tensor([1.0, 0.0])).norm(dim=-1) < 0.5
        far = (states[..., -1, :] - torch.tensor([2.0, 0.1])).square().sum(-1)
        return far + inside.sum(-1) + 0.01 * actions.square().sum((-1, -2))

    search = fastwm.CEM(samples=300, elites=20, iterations=15, std=0.3, low=-0.3, high=0.3, return_best=True)
    planner = point(cost=cost, search=search, horizon=10)
    plan = planner.plan(np.zeros(2), generator=0)
    path = plan.actions[0].cumsum(0)
    assert (path[-1] - torch.tensor([2.0, 0.1])).norm() < 0.2
    assert ((path - torch.tensor([1.0, 0.0])).norm(dim=-1) >= 0.5).all()


class Answer:
    """A function that answers with something else."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def __call__(self, *given):
        return self.answer


BAD = {
    "no function": ({"step": 3}, TypeError, "step is int, expected a function"),
    "no sizes": ({"state_dim": 0}, ValueError, "state_dim is 0, expected an integer of at least 1"),
    "half an action": ({"action_dim": 1.5}, ValueError, "action_dim is 1.5, expected an integer"),
    "other arrays": ({"arrays": "cupy"}, ValueError, "arrays is 'cupy', expected 'torch', 'numpy' or 'jax'"),
    "means": ({"action_mean": [0.0] * 3}, ValueError, "action_mean is .*, expected a finite number or 2"),
    "no spread": ({"action_std": 0.0}, ValueError, "action_std is 0.0, expected positive numbers"),
    "a cost that is none": ({"cost": 1.0}, TypeError, "cost is float, expected a fastwm Cost, a function"),
    "a list": ({"step": Answer([1])}, TypeError, r"step returned list, expected Tensor of shape \(64, 2\)"),
    "an array for a tensor": ({"step": Answer(np.zeros(2))}, TypeError, "step returned ndarray, expected Tensor"),
    "another shape": (
        {"step": Answer(torch.zeros(64, 3))},
        ValueError,
        r"step returned shape \(64, 3\), expected \(64, 2\)",
    ),
    "integers": (
        {"step": Answer(torch.zeros(64, 2, dtype=torch.int64))},
        TypeError,
        "step returned torch.int64, expected floating-point numbers",
    ),
    "costs of one environment": (
        {"cost": Answer(torch.zeros(64))},
        ValueError,
        r"cost returned shape \(64,\), expected \(1, 64\)",
    ),
    "numpy integers": (
        {"step": Answer(np.zeros((64, 2), int)), "arrays": "numpy"},
        TypeError,
        "step returned int64, expected floating-point numbers",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD.keys())
def test_refusals(change: dict, error: type[Exception], message: str) -> None:
    arguments = {"step": lambda z, a: z + a, "cost": None, "state_dim": 2, "action_dim": 2, **change}

    def plan() -> None:
        make = fastwm.Planner.from_function
        planner = make(arguments.pop("step"), arguments.pop("cost"), SEARCH, 2, **arguments)
        planner.plan(np.zeros(2), np.zeros(2))

    with pytest.raises(error, match=message):
        plan()


@pytest.mark.parametrize(
    ("obs", "error", "message"),
    [
        ([0.0, 0.0], ValueError, "obs is list, expected states"),
        (np.zeros(3), ValueError, r"obs has shape \(3,\), expected \(2\)"),
        (np.zeros((0, 2)), ValueError, r"obs has shape \(0, 2\), expected at least one state"),
        (np.zeros(2, int), TypeError, "obs is torch.int64, expected .* floating-point"),
        (np.array([0.0, np.nan]), ValueError, "obs holds numbers that are not finite"),
    ],
)
def test_states_that_do_not_fit(obs, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        point().plan(obs, np.zeros(2))


def test_jax_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    with pytest.raises(ImportError, match="JAX is not installed: pip install jax"):
        point("jax")
    point("numpy")
