"""The agent: plan from the last frames, execute the first blocks, plan again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastwm.planning.clock import Clock
from fastwm.planning.goal import GivenGoal, Goal
from fastwm.planning.planner import Plan, Planner


@dataclasses.dataclass(frozen=True)
class Memory:
    """What an agent knows of its environments, the newest frame and block last."""

    latents: Tensor  # [B, history, E]
    blocks: Tensor  # [B, history, A] executed
    frames: Tensor  # int64 [B] how many of the latents there are yet
    plan: Tensor  # [B, T, A]
    executed: Tensor  # int64 [B] blocks of the plan executed


class Agent:
    """Acts in one environment, or in a batch of them, by planning with a receding horizon.

    history: frames of context, at most the model's window; an environment that has just started has fewer.
    replan_every: blocks of a plan that are executed before the next plan, which starts from the rest of it.
    plan: the last Plan (its `elapsed`, `deadline_hit`, `cost`), None before the first and after a reset of all. After a reset
    of some environments a call makes two plans at times, one for each length of their context; this is the second.
    Raises ValueError for a history or replan_every out of range.
    """

    def __init__(self, planner: Planner, *, history: int = 1, replan_every: int = 1) -> None:
        if not isinstance(planner, Planner):
            raise TypeError(f"planner is {type(planner).__name__}, expected a fastwm.Planner")
        limits = {
            "history": (history, planner.engine.window),
            "replan_every": (replan_every, planner.horizon),
        }
        for name, (value, most) in limits.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{name} is {value!r}, expected an integer from 1 to {most}")
        self.planner, self.history, self.replan_every = planner, history, replan_every
        self.plan: Plan | None = None
        self._memory: Memory | None = None
        self._goal: tuple[Tensor, Goal] | None = None  # the last goal, as given and encoded

    def reset(self, environments: Sequence[int] | Tensor | np.ndarray | None = None) -> None:
        """Forget frames, executed blocks and plans: of all environments, or of those given by number or by a mask [B].

        Raises ValueError for an environment that is not there.
        """
        memory = self._memory
        if environments is None or memory is None:
            self._memory = self.plan = None
            return
        B = len(memory.frames)
        chosen = torch.as_tensor(environments)
        if chosen.dtype == torch.bool and chosen.shape == (B,):
            chosen = chosen.nonzero()[:, 0]
        chosen = chosen.to(torch.int64) if len(chosen) == 0 else chosen
        if (
            chosen.dtype not in (torch.int32, torch.int64)
            or chosen.dim() != 1
            or not ((chosen >= 0) & (chosen < B)).all()
        ):
            raise ValueError(
                f"environments is {chosen.tolist()}, expected numbers from 0 to {B - 1} or a mask of {B}"
            )
        fresh = torch.zeros(B, dtype=torch.bool).index_fill(0, chosen.long(), True)
        start = self._start(B)
        self._memory = dataclasses.replace(
            memory,
            frames=torch.where(fresh, start.frames, memory.frames),
            plan=torch.where(fresh[:, None, None], start.plan, memory.plan),
            executed=torch.where(fresh, start.executed, memory.executed),
        )

    @torch.no_grad()
    def act(
        self,
        obs: Tensor | np.ndarray,
        goal: GivenGoal | Goal | None = None,
        deadline: float | None = None,
    ) -> Tensor | np.ndarray:
        """The next action block: [A] for one image, [B, A] for a batch of them; environment units, an array for an array.

        obs: the image(s) seen after the last block, one per environment. goal: image(s) or latents, as in
        `Planner.plan`.
        deadline: seconds from now for all planning of this call. The block returned is taken to be the block
        executed.
        Raises what `Planner.plan` raises, and ValueError if the number of environments changed without a
        `reset()`; the agent is then as it was before the call.
        """
        clock = Clock(deadline)
        if not isinstance(obs, (Tensor, np.ndarray)):
            raise TypeError(f"obs is {type(obs).__name__}, expected a tensor or array of images")
        single = self.planner.engine.observation_dims
        if obs.ndim not in (single, single + 1):
            raise ValueError(
                f"obs has shape {tuple(obs.shape)}, expected one observation of {single} dimensions or one for each "
                "environment"
            )
        frame = self.planner.engine.encode(obs)[:, -1]  # [B, E]
        B = len(frame)
        memory = self._start(B) if self._memory is None else self._memory
        if len(memory.frames) != B:
            raise ValueError(
                f"obs is a batch of {B}, the agent has one of {len(memory.frames)}: call reset() first"
            )
        target = self._target(goal, B)
        latents = torch.cat([memory.latents[:, 1:], frame[:, None]], dim=1)
        frames = (memory.frames + 1).clamp(max=self.history)
        seen = dataclasses.replace(memory, latents=latents, frames=frames)
        plan, executed, self.plan = self._replan(seen, target, clock)
        block = plan[torch.arange(B), executed]  # [B, A]
        blocks = torch.cat([memory.blocks[:, 1:], block[:, None]], dim=1)
        self._memory = Memory(latents, blocks, frames, plan, executed + 1)
        action = block[0] if obs.ndim == single else block
        return action.numpy() if isinstance(obs, np.ndarray) else action

    def _start(self, B: int) -> Memory:
        engine, history = self.planner.engine, self.history
        return Memory(
            latents=torch.zeros(B, history, engine.embed_dim),
            blocks=torch.zeros(B, history, engine.action_dim),
            frames=torch.zeros(B, dtype=torch.int64),
            plan=engine.action_mean.repeat(B, self.planner.horizon, 1),
            executed=torch.full((B,), self.replan_every),
        )

    def _replan(self, memory: Memory, target: Goal, clock: Clock) -> tuple[Tensor, Tensor, Plan | None]:
        """Plans [B, T, A] and blocks executed of them [B], with new plans where `replan_every` blocks have been executed;
        and the last Plan.

        Environments with as many frames are planned together.
        """
        plan, executed, history = memory.plan.clone(), memory.executed.clone(), self.history
        found = self.plan
        due = executed == self.replan_every
        seed = self.planner.next_seed() if due.any() else 0
        lengths = memory.frames[due].unique().tolist()
        for place, K in enumerate(lengths):
            group = (due & (memory.frames == K)).nonzero()[:, 0]
            found = self.planner.plan(
                {
                    "latents": memory.latents[group, history - K :],
                    "past_actions": memory.blocks[group, history - K + 1 :],
                },
                target.select(group),
                warm_start=plan[group, self.replan_every :],
                deadline=clock.share(len(lengths) - place),
                generator=seed,
                environments=group,
            )
            plan[group], executed[group] = found.actions, 0
        return plan, executed, found

    def _target(self, goal: GivenGoal | Goal | None, B: int) -> Goal:
        """The goal of each environment, encoded again only when it changes."""
        given = torch.from_numpy(np.ascontiguousarray(goal)) if isinstance(goal, np.ndarray) else goal
        if not isinstance(given, Tensor):
            return self.planner.goal(given, B)
        if self._goal is not None:
            known, encoded = self._goal
            if given.dtype == known.dtype and torch.equal(given, known) and len(encoded.latents) == B:  # type: ignore[arg-type]
                return encoded
        encoded = self.planner.goal(given, B)
        self._goal = given.clone(), encoded
        return encoded
