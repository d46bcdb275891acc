"""The agent: plan from the last frames, execute the first blocks, plan again."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastwm.ops._check import from_array
from fastwm.planning.clock import Clock
from fastwm.planning.goal import GivenGoal, Goal
from fastwm.planning.plan import Plan
from fastwm.planning.planner import Planner
from fastwm.planning.sampling import choose
from fastwm.planning.warm_start import WarmStart


@dataclasses.dataclass(frozen=True)
class Memory:
    """What an agent knows of its environments, the newest frame and block last."""

    latents: Tensor  # [B, history, E]
    blocks: Tensor  # [B, history, A] executed
    frames: Tensor  # int64 [B] how many of the latents there are yet
    plan: Tensor  # [B, T, A]
    std: Tensor  # [B, T, A] of the plan
    kept: Tensor | None  # [B, n, T, A] candidates of the plan to try again, of the environments that `tries`
    tries: Tensor  # bool [B]
    planned: Tensor  # bool [B] whether there is a plan yet
    executed: Tensor  # int64 [B] blocks of the plan executed
    goals: Tensor | None  # [B, G, E] the last goals, where they were several
    reached: Tensor  # int64 [B] how many of them are behind, of several in order


class Agent:
    """Acts in one environment, or in a batch of them, by planning with a receding horizon.

    history: frames of context, at most the model's window; an environment that has just started has fewer.
    replan_every: blocks of a plan that are executed before the next plan, which starts from the rest of it.
    arrive: squared distance of latents at which the next of several goals in order counts as reached; none of new goals is.
    plan: the last Plan (its `elapsed`, `deadline_hit`, `cost`), None before the first and after a reset of all. After a reset
    of some environments a call makes two plans at times, one for each length of their context; this is the second.
    Calls from several threads are served one after another.
    Raises ValueError for an argument out of range.
    """

    def __init__(
        self, planner: Planner, *, history: int = 1, replan_every: int = 1, arrive: float = 0.0
    ) -> None:
        if not isinstance(planner, Planner):
            raise TypeError(f"planner is {type(planner).__name__}, expected a fastwm.Planner")
        limits = {
            "history": (history, planner.engine.window),
            "replan_every": (replan_every, planner.horizon),
        }
        for name, (value, most) in limits.items():
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
                raise ValueError(f"{name} is {value!r}, expected an integer from 1 to {most}")
        if isinstance(arrive, bool) or not isinstance(arrive, (int, float)) or not arrive >= 0.0:
            raise ValueError(f"arrive is {arrive!r}, expected a squared distance of at least 0")
        self.planner, self.history, self.replan_every, self.arrive = planner, history, replan_every, arrive
        self._lock = threading.RLock()
        self.plan: Plan | None = None
        self._memory: Memory | None = None
        self._goal: tuple[Tensor, Goal] | None = None  # the last goal, as given and encoded

    @property
    def memory(self) -> Memory | None:
        """What the agent knows of its environments, which a call replaces as a whole; None before the first call."""
        return self._memory

    def reset(self, environments: Sequence[int] | Tensor | np.ndarray | None = None) -> None:
        """Forget frames, executed blocks and plans: of all environments, or of those given by number or by a mask [B].

        Raises ValueError for an environment that is not there.
        """
        with self._lock:
            self._reset(environments)

    def _reset(self, environments: Sequence[int] | Tensor | np.ndarray | None) -> Tensor | None:
        """bool [B], which environments were; None for all."""
        memory = self._memory
        if environments is None or memory is None:
            self._memory = self.plan = None
            return None
        B = len(memory.frames)
        chosen = torch.as_tensor(environments, device="cpu")
        if chosen.dtype == torch.bool and chosen.shape == (B,):
            chosen = chosen.nonzero()[:, 0]
        chosen = chosen.to(torch.int64) if chosen.numel() == 0 else chosen
        if (
            chosen.dtype not in (torch.int32, torch.int64)
            or chosen.dim() != 1
            or not ((chosen >= 0) & (chosen < B)).all()
        ):
            raise ValueError(
                f"environments is {chosen.tolist()}, expected numbers from 0 to {B - 1} or a mask of {B}"
            )
        fresh = torch.zeros(B, dtype=torch.bool, device="cpu").index_fill(0, chosen.long(), True)
        self._memory = _where(fresh, self._start(B), memory)
        return fresh

    @torch.no_grad()
    def act(
        self,
        obs: Tensor | np.ndarray,
        goal: GivenGoal | Goal | None = None,
        deadline: float | None = None,
    ) -> Tensor | np.ndarray:
        """The next action block: [A] for one image, [B, A] for a batch of them; environment units, an array for an array.

        obs: what was seen after the last block, one image (or state) or one per environment. goal: as in `Planner.plan`;
        a tensor or array that stays the same is encoded once, other goals by `planner.goal`, once for many calls.
        deadline: seconds from now for all planning of this call; `Planner.fallback` says what is done where no search fits.
        The block returned is taken to be the block executed; `block.reshape(engine.action_block, -1)` are its actions.
        Raises what `Planner.plan` raises, and ValueError if the number of environments changed without a
        `reset()`; the agent is then as it was before the call.
        """
        with self._lock:
            return self._act(obs, goal, Clock(deadline))

    def _act(
        self, obs: Tensor | np.ndarray, goal: GivenGoal | Goal | None, clock: Clock
    ) -> Tensor | np.ndarray:
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
        goals, reached = memory.goals, memory.reached
        if target.several:
            assert target.latents is not None
            goals = target.latents.clone()  # the caller's array may be written to
            reached = self._progress(frame, target, memory)
            target = dataclasses.replace(target, reached=reached)
        latents = torch.cat([memory.latents[:, 1:], frame[:, None]], dim=1)
        frames = (memory.frames + 1).clamp(max=self.history)
        seen = dataclasses.replace(memory, latents=latents, frames=frames, goals=goals, reached=reached)
        ready, self.plan = self._replan(seen, target, clock)
        block = ready.plan[torch.arange(B, device="cpu"), ready.executed]  # [B, A]
        self._memory = dataclasses.replace(
            ready,
            blocks=torch.cat([memory.blocks[:, 1:], block[:, None]], dim=1),
            executed=ready.executed + 1,
        )
        action = block[0] if obs.ndim == single else block
        return action.numpy() if isinstance(obs, np.ndarray) else action

    def _start(self, B: int) -> Memory:
        engine, history = self.planner.engine, self.history
        return Memory(
            latents=torch.zeros(B, history, engine.embed_dim, dtype=torch.float32, device="cpu"),
            blocks=torch.zeros(B, history, engine.action_dim, dtype=torch.float32, device="cpu"),
            frames=torch.zeros(B, dtype=torch.int64, device="cpu"),
            plan=engine.action_mean.repeat(B, self.planner.horizon, 1),
            std=(self.planner.optimizer.std * engine.action_std).repeat(B, self.planner.horizon, 1),
            kept=None,
            tries=torch.zeros(B, dtype=torch.bool, device="cpu"),
            planned=torch.zeros(B, dtype=torch.bool, device="cpu"),
            executed=torch.full((B,), self.replan_every, device="cpu"),
            goals=None,
            reached=torch.zeros(B, dtype=torch.int64, device="cpu"),
        )

    def _replan(self, memory: Memory, target: Goal, clock: Clock) -> tuple[Memory, Plan | None]:
        """The memory with new plans where `replan_every` blocks have been executed, and the last Plan.

        Environments with as many frames are planned together, those with candidates to try again apart from the others, and
        those without a plan if a policy begins theirs.
        """
        found = self.plan
        due = memory.executed == self.replan_every
        seed = self.planner.next_seed() if due.any() else 0
        begun = memory.planned | (self.planner.policy is None)
        kinds = torch.stack([memory.frames, memory.tries, begun], dim=1)
        which = kinds[due].unique(dim=0)
        for place, kind in enumerate(which):
            group = (due & (kinds == kind).all(1)).nonzero()[:, 0]
            found = self.planner.plan(
                _context(memory, group, int(kind[0])),
                target.select(group),
                warm_start=_rest(memory, group, self.replan_every if kind[2] else self.planner.horizon),
                deadline=clock.share(len(which) - place),
                generator=seed,
                environments=group,
            )
            memory = _planned(memory, group, found)
        return memory, found

    def _progress(self, frame: Tensor, target: Goal, memory: Memory) -> Tensor:
        """Goals that are behind, int64 [B], one more where the next one has been arrived at; the last is never behind.

        Of new goals those are that the target says, or none.
        """
        assert target.latents is not None
        rows, last = torch.arange(len(frame), device="cpu"), target.latents.shape[1] - 1
        reached = torch.zeros_like(memory.reached) if target.reached is None else target.reached
        if memory.goals is not None and memory.goals.shape == target.latents.shape:
            same = (memory.goals == target.latents).flatten(1).all(1)
            reached = torch.where(same, torch.maximum(memory.reached, reached), reached)
        reached = reached.clamp(max=last)
        near = (frame - target.latents[rows, reached]).square().sum(-1) <= self.arrive
        return (reached + near).clamp(max=last)

    def _target(self, goal: GivenGoal | Goal | None, B: int) -> Goal:
        """The goal of each environment, encoded again only when it changes."""
        given = from_array("goal", goal) if isinstance(goal, np.ndarray) else goal
        if not isinstance(given, Tensor):
            return self.planner.goal(given, B)
        if self._goal is not None:
            known, encoded = self._goal
            if given.dtype == known.dtype and torch.equal(given, known) and len(encoded.latents) == B:  # type: ignore[arg-type]
                return encoded
        own = given.clone()  # the caller may write to its tensor
        encoded = self.planner.goal(own, B)
        self._goal = own, encoded
        return encoded


def _context(memory: Memory, group: Tensor, K: int) -> dict[str, Tensor]:
    """What a planner is given of the environments `group`, each with K frames."""
    first = memory.latents.shape[1] - K
    return {
        "latents": memory.latents[group, first:],
        "past_actions": memory.blocks[group, first + 1 :],
    }


def _rest(memory: Memory, group: Tensor, executed: int) -> WarmStart:
    """Of the environments' plans what is left after `executed` blocks."""
    kept = None if memory.kept is None or not memory.tries[group].all() else memory.kept[group, :, executed:]
    return WarmStart(memory.plan[group, executed:], memory.std[group, executed:], kept)


def _planned(memory: Memory, group: Tensor, found: Plan) -> Memory:
    """The memory with a new plan for the environments `group`, nothing of it executed yet."""
    kept = memory.kept
    if found.kept is not None:
        if kept is None:
            kept = memory.plan.new_zeros(len(memory.plan), *found.kept.shape[1:])
        kept = kept.index_copy(0, group, found.kept)
    return dataclasses.replace(
        memory,
        plan=memory.plan.index_copy(0, group, found.actions),
        std=memory.std.index_copy(0, group, found.std),
        kept=kept,
        executed=memory.executed.index_fill(0, group, 0),
        tries=memory.tries.index_fill(0, group, found.kept is not None),
        planned=memory.planned.index_fill(0, group, True),
    )


def _where(fresh: Tensor, start: Memory, memory: Memory) -> Memory:
    """The memory with the environments `fresh` [B] at their start; what they saw is not read with no frames."""
    chosen = {
        name: choose(fresh, getattr(start, name), old)
        for name, old in vars(memory).items()
        if name not in ("kept", "goals")
    }
    return dataclasses.replace(memory, **chosen)
