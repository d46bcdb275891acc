"""The planners in TorchRL's place against TorchRL's own: from the same candidates the same action."""

from __future__ import annotations

import pytest

pytest.importorskip("torchrl", reason="torchrl is not installed", exc_type=ImportError)

import numpy as np
import torch
import torchrl.modules
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase, InitTracker, TransformedEnv
from torchrl.modules import ValueOperator
from torchrl.objectives.value import TDLambdaEstimator

import fastwm
from fastwm.integrations.torchrl import AgentModule, CEMPlanner, MPPIPlanner

pytestmark = pytest.mark.peers

S, T, STEPS, TOP = 48, 5, 4, 7


class Reach(EnvBase):
    """A point in the plane that an action moves; the reward is minus the squared distance to a place. Stateless: a model.

    wall: beyond this x it is done. bounded: whether actions are.
    """

    batch_locked = False

    def __init__(self, *, wall: float = np.inf, bounded: bool = False, action_spec=None) -> None:
        super().__init__(device="cpu", batch_size=[])
        self.observation_spec = Composite(observation=Unbounded((2,)))
        self.state_spec = self.observation_spec.clone()
        self.action_spec = action_spec or (Bounded(-0.3, 0.5, (2,)) if bounded else Unbounded((2,)))
        self.reward_spec = Unbounded((1,))
        self.wall = wall

    def _reset(self, tensordict):
        shape = self.batch_size if tensordict is None else tensordict.batch_size
        return TensorDict({"observation": torch.zeros(*shape, 2)}, shape)

    def _step(self, tensordict):
        place = tensordict["observation"] + tensordict["action"]
        reward = -(place - torch.tensor([1.0, -0.5])).square().sum(-1, keepdim=True)
        done = place[..., :1] > self.wall
        found = {"observation": place, "reward": reward, "done": done, "terminated": done.clone()}
        return TensorDict(found, tensordict.batch_size)

    def _set_seed(self, seed):
        pass


def starts(*batch: int) -> TensorDict:
    places = torch.randn(*batch, 2, generator=torch.Generator().manual_seed(5))
    done = torch.zeros(*batch, 1, dtype=torch.bool)
    return TensorDict({"observation": places, "done": done, "terminated": done.clone()}, batch)


def advantage() -> nn.Module:
    torch.manual_seed(0)
    value = ValueOperator(nn.Linear(2, 1), in_keys=["observation"])
    return TDLambdaEstimator(gamma=0.95, lmbda=0.9, value_network=value)


def planners(kind: str, env: EnvBase):
    """Theirs and ours."""
    if kind == "cem":
        given = (env, T, STEPS, S, TOP)
        return torchrl.modules.CEMPlanner(*given), CEMPlanner(*given)
    given = (env, advantage(), 1.7, T, STEPS, S, TOP)
    return torchrl.modules.MPPIPlanner(*given), MPPIPlanner(*given)


def noise(B: int) -> Tensor:
    """[STEPS, B, S, T, 2]; candidate 0 is the mean, as it is in fastwm."""
    draws = torch.randn(STEPS, B, S, T, 2, generator=torch.Generator().manual_seed(1))
    draws[:, :, 0] = 0
    return draws


@pytest.mark.parametrize("batch", [(3,), (), (2, 2)], ids=str)
@pytest.mark.parametrize(
    "env", [Reach(), Reach(bounded=True), Reach(wall=0.6)], ids=["free", "bounded", "wall"]
)
@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_the_same_candidates_lead_to_the_same_action(
    kind: str, env: Reach, batch: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = planners(kind, env)
    start = starts(*batch)
    draws = noise(start.numel())
    found = ours.planning(start.clone(), noise=draws)
    scripted = iter(draws)
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: next(scripted).reshape(shape))
    expected = theirs.planning(start.clone())
    assert next(scripted, None) is None, "every draw was used"
    assert found.shape == expected.shape == (*batch, 2)
    assert torch.allclose(found, expected, atol=2e-5)
    assert found.abs().max() > 0.05


@pytest.mark.parametrize("kind", ["cem", "mppi"])
def test_rollouts_are_as_good(kind: str) -> None:
    returns = []
    for planner in planners(kind, Reach(bounded=True)):
        torch.manual_seed(3)
        path = Reach(bounded=True).rollout(6, planner, auto_reset=False, tensordict=starts(4))
        assert path["action"].shape == (4, 6, 2)
        assert (path["action"] <= 0.5).all()
        returns.append(path["next", "reward"].sum().item())
    theirs, ours = returns
    assert ours > theirs - 0.02 * abs(theirs)


def test_what_comes_after_the_end_does_not_count() -> None:
    """Beyond the wall it is done: only the first step there counts, so a plan that leaps over it is best."""
    env = Reach(wall=0.1)
    planner = CEMPlanner(env, T, 12, 300, 30)
    actions = torch.tensor([[0.2, 0.0], [5.0, 5.0], [0.0, 0.0]])[None, None]
    worth = planner._worth(TensorDict({"observation": torch.zeros(1, 2)}, [1]), actions)
    assert worth.item() == pytest.approx(-(0.8**2 + 0.5**2))
    found = planner.planning(TensorDict({"observation": torch.zeros(1, 2)}, [1]))
    assert torch.allclose(found, torch.tensor([[1.0, -0.5]]), atol=0.05)


def test_options_and_seeds() -> None:
    env = Reach()
    kinds = [CEMPlanner(env, T, STEPS, S, TOP, seed=seed, min_std=0.1) for seed in (1, 1, 2)]
    first, again, other = (planner.planning(starts(2)) for planner in kinds)
    assert kinds[0].method.min_std == 0.1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    state = torch.get_rng_state()
    kinds[0].planning(starts(2))
    assert torch.equal(state, torch.get_rng_state())


def test_a_large_advantage_does_not_overflow() -> None:
    planner = MPPIPlanner(Reach(), None, 1e6, T, STEPS, S, TOP)
    assert planner.planning(starts(2)).isfinite().all()


def test_the_module_takes_its_place() -> None:
    env = Reach()
    planner = CEMPlanner(env, T, STEPS, S, TOP, action_key="chosen")
    assert isinstance(planner, torchrl.modules.MPCPlannerBase)
    assert planner.in_keys == ["observation"]
    assert planner.out_keys == ["chosen"]
    assert planner(starts(3))["chosen"].shape == (3, 2)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Categorical(3), "the action spec is Categorical"),
        (Bounded(0, 5, (2,), dtype=torch.int64), "expected Bounded or Unbounded floating-point"),
    ],
)
def test_actions_that_do_not_fit(spec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CEMPlanner(Reach(action_spec=spec), T, STEPS, S, TOP)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="planning_horizon is 0"):
        CEMPlanner(Reach(), 0, STEPS, S, TOP)
    with pytest.raises(ValueError, match="elites is 49, expected at most samples = 48"):
        CEMPlanner(Reach(), T, STEPS, S, 49)
    with pytest.raises(ValueError, match="temperature is 0, expected a positive number"):
        MPPIPlanner(Reach(), None, 0, T, STEPS, S, TOP)


# ---- an agent as a module ------------------------------------------------------------------------------------------------


def agent() -> fastwm.Agent:
    search = fastwm.CEM(100, 10, 8, low=-0.3, high=0.3)
    planner = fastwm.Planner.from_function(lambda z, a: z + a, None, search, 4, state_dim=2, action_dim=2)
    return fastwm.Agent(planner)


@pytest.mark.parametrize("batch", [(), (3,), (2, 2)], ids=str)
def test_an_agent_is_a_policy(batch: tuple[int, ...]) -> None:
    goal = torch.tensor([1.0, -0.5])
    module = AgentModule(agent(), goal=goal)
    path = Reach(bounded=True).rollout(14, module, auto_reset=False, tensordict=starts(*batch))
    assert path["action"].shape == (*batch, 14, 2)
    assert (path["next", "observation"][..., -1, :] - goal).abs().max() < 0.25


def test_an_agent_forgets_environments_that_were_reset() -> None:
    class Recorder(fastwm.Agent):
        resets: list = []  # noqa: RUF012

        def reset(self, environments=None):
            self.resets.append(None if environments is None else environments.tolist())
            super().reset(environments)

    module = AgentModule(Recorder(agent().planner), goal_key="goal", init_key="is_init")
    start = starts(2).set("goal", torch.ones(2, 2))
    for fresh in ([True, True], [False, False], [False, True]):
        module(start.set("is_init", torch.tensor(fresh)[:, None]))
    assert module.in_keys == ["observation", "goal", "is_init"]
    assert module.agent.resets == [None, [False, True]]


def test_a_tracker_of_resets_is_understood() -> None:
    env = TransformedEnv(Reach(wall=0.4), InitTracker())
    module = AgentModule(agent().planner, goal=torch.tensor([1.0, 0.0]), init_key="is_init")
    path = env.rollout(6, module, break_when_any_done=False)
    assert path["is_init"].sum() >= 2
    first = path["is_init"][:, 0]
    assert (path["observation"][first] == 0).all()
    assert (path["action"][first, 0] > 0.1).all()


def test_an_agent_has_one_goal() -> None:
    with pytest.raises(ValueError, match="goal and goal_key = 'goal' were given"):
        AgentModule(agent(), goal=torch.zeros(2), goal_key="goal")
    with pytest.raises(KeyError, match="goal"):
        AgentModule(agent(), goal_key="goal")(starts(2))


def test_a_learnt_model_plans() -> None:
    """TorchRL's own example of a model-based environment."""
    from torchrl.envs.model_based import ModelBasedEnvBase
    from torchrl.modules import MLP, SafeModule, WorldModelWrapper

    class Model(ModelBasedEnvBase):
        def __init__(self, world_model):
            super().__init__(world_model, batch_size=[])
            self.observation_spec = self.state_spec = Composite(hidden=Unbounded((4,)))
            self.action_spec, self.reward_spec = Unbounded((1,)), Unbounded((1,))

        def _reset(self, tensordict):
            return self.full_state_spec.rand()

    torch.manual_seed(0)
    world = WorldModelWrapper(
        SafeModule(
            MLP(out_features=4, depth=0, in_features=5), in_keys=["hidden", "action"], out_keys=["hidden"]
        ),
        TensorDictModule(nn.Linear(4, 1), in_keys=["hidden"], out_keys=["reward"]),
    )
    env = Model(world)
    path = env.rollout(5, CEMPlanner(env, 10, 11, 7, 3))
    assert path["action"].shape == (5, 1)
    assert path["action"].isfinite().all()
