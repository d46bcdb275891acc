"""Planners in the place of TorchRL's `CEMPlanner` and `MPPIPlanner`, and a fastwm agent as a TensorDict module.

from fastwm.integrations.torchrl import CEMPlanner
planner = CEMPlanner(env, planning_horizon=10, optim_steps=10, num_candidates=500, top_k=50)
env.rollout(100, planner)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor, nn
from torchrl.data import Bounded, Unbounded
from torchrl.envs import EnvBase
from torchrl.modules import MPCPlannerBase

from fastwm import planning
from fastwm.planning import Agent, Planner, Sampling, search
from fastwm.planning.clock import Clock
from fastwm.planning.draws import make_draws


class SearchPlanner(MPCPlannerBase):
    """Any fastwm search in a TorchRL environment, a model-based one as a rule: writes the first action of the best plan.

    What is searched for is the largest sum of rewards up to the first `done`; or, with `advantage_module`, the largest
    "advantage" that it writes for the first step. method: makes the search, given the bounds `low` and `high` of the actions,
    None where there are none. seed: of the planner's own random numbers, which torch's do not touch.
    Raises ValueError for an environment that is batch-locked or has actions other than one Bounded or Unbounded tensor of
    floating-point numbers.
    """

    def __init__(
        self,
        env: EnvBase,
        method: Callable[..., Sampling],
        planning_horizon: int,
        reward_key: NestedKey = ("next", "reward"),
        action_key: NestedKey = "action",
        *,
        advantage_module: nn.Module | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(env=env, action_key=action_key)
        if (
            isinstance(planning_horizon, bool)
            or not isinstance(planning_horizon, int)
            or planning_horizon < 1
        ):
            raise ValueError(f"planning_horizon is {planning_horizon!r}, expected an integer of at least 1")
        self.planning_horizon, self.reward_key = planning_horizon, reward_key
        self.advantage_module = advantage_module
        self.method = method(**_bounds(env.action_spec))
        self._seeds = random.Random(seed)

    @torch.no_grad()
    def planning(
        self,
        tensordict: TensorDictBase,
        *,
        noise: Tensor | np.ndarray | None = None,
        deadline: float | None = None,
    ) -> Tensor:
        """The first action of the plan for each of the tensordict's states: [*batch, *action].

        noise: standard normal draws [optim_steps, B, num_candidates, planning_horizon, A] used instead of random ones; B and
        A count the states and the numbers of an action. deadline: seconds; no iteration that would end later is started.
        Raises RuntimeError if no candidate has a finite return.
        """
        start = tensordict.reshape(-1)  # [B]
        spec, T = self.env.action_spec, self.planning_horizon
        mean = torch.zeros(len(start), T, spec.shape.numel())

        def evaluate(actions: Tensor) -> Tensor:
            """[B, S, T, A] -> [B, S]"""
            shaped = actions.reshape(*actions.shape[:3], *spec.shape).to(self.env.device, spec.dtype)
            return -self._worth(start, shaped).to("cpu", torch.float32)

        shape = (self.method.iterations, len(start), self.method.samples, *mean.shape[1:])
        draws = make_draws(self._seeds.getrandbits(63), None, noise, shape)
        std = torch.full_like(mean, self.method.std)
        found = search(self.method, evaluate, mean, std, draws, Clock(deadline))
        state, record = found.state, found.record
        record.refuse_hopeless()
        plan = record.best_actions if self.method.return_best else state.mean
        return plan[:, 0].reshape(*tensordict.batch_size, *spec.shape).to(tensordict.device, spec.dtype)

    def _worth(self, start: TensorDictBase, actions: Tensor) -> Tensor:
        """States [B], candidates [B, S, T, ...] -> what they are worth [B, S]."""
        B, S, T = actions.shape[:3]
        steps = iter(actions.unbind(2))

        def policy(tensordict: TensorDictBase) -> TensorDictBase:
            return tensordict.set(self.env.action_key, next(steps))

        path = self.env.rollout(
            T,
            policy,
            auto_reset=False,
            tensordict=start.unsqueeze(-1).expand(B, S).clone(),
            break_when_any_done=False,
        )
        reward = path.get(self.reward_key)
        if reward.shape != (B, S, T, 1):
            raise ValueError(f"{self.reward_key} has shape {tuple(reward.shape)}, expected {(B, S, T, 1)}")
        reward = reward.masked_fill(self._over(path), 0.0)
        if self.advantage_module is None:
            return reward[..., 0].sum(2)
        path.set(self.reward_key, reward)
        self.advantage_module(path)
        return path.get("advantage")[:, :, 0, 0]

    def _over(self, path: TensorDictBase) -> Tensor:
        """Which steps [B, S, T, 1] come after the first that was done."""
        keys = [key for key in self.env.done_keys if (key if isinstance(key, str) else key[-1]) == "done"]
        keys = ["done"] if "done" in keys else keys
        done = torch.stack([path.get(("next", key)).flatten(3).any(3) for key in keys]).any(0)
        return (done.cumsum(2) > done.long())[..., None]


class CEMPlanner(SearchPlanner):
    """TorchRL's `CEMPlanner`, with `fastwm.CEM`: candidate 0 is the mean. options: the other ones of `fastwm.CEM`."""

    def __init__(
        self,
        env: EnvBase,
        planning_horizon: int,
        optim_steps: int,
        num_candidates: int,
        top_k: int,
        reward_key: NestedKey = ("next", "reward"),
        action_key: NestedKey = "action",
        *,
        seed: int = 0,
        **options: Any,
    ) -> None:
        def method(**bounds: Any) -> Sampling:
            return planning.CEM(num_candidates, top_k, optim_steps, **(bounds | options))

        super().__init__(env, method, planning_horizon, reward_key, action_key, seed=seed)


class MPPIPlanner(SearchPlanner):
    """TorchRL's `MPPIPlanner`, with `fastwm.MPPI`: candidate 0 is the mean, and a large advantage does not overflow.

    advantage_module: as theirs, writes "advantage" from rewards and values; None weighs by the sum of rewards.
    temperature: theirs, weights are softmax(temperature * advantage) over the `top_k` best. options: the other ones of
    `fastwm.MPPI`.
    """

    def __init__(
        self,
        env: EnvBase,
        advantage_module: nn.Module | None,
        temperature: float,
        planning_horizon: int,
        optim_steps: int,
        num_candidates: int,
        top_k: int,
        reward_key: NestedKey = ("next", "reward"),
        action_key: NestedKey = "action",
        *,
        seed: int = 0,
        **options: Any,
    ) -> None:
        if not isinstance(temperature, (int, float)) or not 0 < temperature < float("inf"):
            raise ValueError(f"temperature is {temperature!r}, expected a positive number")

        def method(**bounds: Any) -> Sampling:
            own = {"temperature": 1 / temperature, "elites": top_k, "refit_std": True}
            return planning.MPPI(num_candidates, optim_steps, **(bounds | own | options))

        super().__init__(
            env,
            method,
            planning_horizon,
            reward_key,
            action_key,
            advantage_module=advantage_module,
            seed=seed,
        )


class AgentModule(TensorDictModuleBase):
    """A fastwm agent as a policy: reads observations [*batch, ...] that its engine encodes, writes action blocks [*batch, A].

    agent: or a Planner, for one that plans at every step. goal: as `Agent.act` takes it; or goal_key: where it is read.
    init_key: where an environment has just been reset (bool [*batch, 1], as `torchrl.envs.InitTracker` writes "is_init"), for
    the agent to forget it; without one call `module.agent.reset()` yourself. deadline: seconds of each call.
    """

    def __init__(
        self,
        agent: Agent | Planner,
        observation_key: NestedKey = "observation",
        action_key: NestedKey = "action",
        *,
        goal: Tensor | np.ndarray | None = None,
        goal_key: NestedKey | None = None,
        init_key: NestedKey | None = None,
        deadline: float | None = None,
    ) -> None:
        super().__init__()
        if goal is not None and goal_key is not None:
            raise ValueError(f"goal and goal_key = {goal_key!r} were given, expected one of them")
        self.agent = Agent(agent) if isinstance(agent, Planner) else agent
        self.observation_key, self.action_key = observation_key, action_key
        self.goal, self.goal_key, self.init_key, self.deadline = goal, goal_key, init_key, deadline
        self.in_keys = [key for key in (observation_key, goal_key, init_key) if key is not None]
        self.out_keys = [action_key]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Writes the action. Raises what `Agent.act` raises, and KeyError for a key that is not there."""
        batch = tensordict.batch_size
        if self.init_key is not None:
            fresh = tensordict[self.init_key].reshape(-1).cpu()
            if fresh.all():
                self.agent.reset()
            elif fresh.any():
                self.agent.reset(fresh)
        goal = self.goal if self.goal_key is None else self._flat(tensordict, self.goal_key)
        block = self.agent.act(self._flat(tensordict, self.observation_key), goal, self.deadline)
        action = torch.as_tensor(block).reshape(*batch, -1).to(tensordict.device)
        return tensordict.set(self.action_key, action)

    def _flat(self, tensordict: TensorDictBase, key: NestedKey) -> Tensor:
        """[*batch, ...] -> [B, ...] on the CPU, or [...] where there is no batch."""
        value, dims = tensordict[key].cpu(), len(tensordict.batch_size)
        return value.flatten(0, dims - 1) if dims > 1 else value


def _bounds(spec: Any) -> dict[str, list[float] | None]:
    if not isinstance(spec, (Bounded, Unbounded)) or not spec.dtype.is_floating_point:
        raise ValueError(
            f"the action spec is {spec}, expected Bounded or Unbounded floating-point numbers under one key"
        )
    if isinstance(spec, Unbounded):
        return {"low": None, "high": None}
    return {name: getattr(spec.space, name).flatten().tolist() for name in ("low", "high")}
