"""Plans become habits: what the planner finds (mode 2) is taught to the policy (mode 1), and kept if it helps.

The amortisation of LeCun 2022 (section 3.1.3) as imitation with the learner's own states (DAgger, arXiv:1011.0686): starts are
frames of the data and, for a share of them, where the policy itself would be after some blocks, as the model imagines. Only the
action stream learns, so the world model stays as it was, bit for bit.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm, trange

from fastwm.data import Episodes
from fastwm.models.wam import LatentWAM
from fastwm.models.wam.heads import mixture_log_prob
from fastwm.models.wam.trunk import join
from fastwm.objectives.flow_matching import flow_target

if TYPE_CHECKING:
    from fastwm.planning import Planner

ACTIONS = (
    "action_stream", "goal_input", "no_goal", "goal_condition", "slot", "slot_condition", "noisy_input", "time",
    "velocity", "mixture",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """plans: how many starts are planned from. imagined: the share of them that the policy has moved first."""

    plans: int = 2048
    batch: int = 64  # plans made at once
    imagined: float = 0.5
    steps: int = 300
    batch_size: int = 128
    learning_rate: float = 3e-4
    gradient_clip: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("plans", "batch", "steps", "batch_size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected an integer of at least 1")
        if not 0 <= self.imagined <= 1:
            raise ValueError(f"imagined is {self.imagined!r}; expected a share from 0 to 1")
        for name in ("learning_rate", "gradient_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a positive number")


@dataclasses.dataclass(frozen=True)
class Distilled:
    """model: the distilled one where `kept`, else the one that was given. before, after: what was measured of each."""

    model: LatentWAM
    kept: bool
    before: float
    after: float


def distill(
    model: LatentWAM,
    planner: Planner,
    episodes: Episodes,
    measure: Callable[[LatentWAM], float],
    config: DistillConfig | None = None,
    *,
    progress: bool = False,
) -> Distilled:
    """Teach the model's policy what `planner` finds; `measure` says how good a model's policy is (success, 0 .. 1).

    planner: of the same model, with a horizon of at least its chunk. The distilled model is kept if `measure` does not fall.
    progress: bars on stderr, of plans and of steps.
    Raises ValueError, before any work, where planner or episodes do not fit the model.
    """
    config = config or DistillConfig()
    sizes = model.config
    if planner.horizon < sizes.chunk:
        raise ValueError(
            f"planner has a horizon of {planner.horizon}; expected at least {sizes.chunk}, the model's chunk"
        )
    if len(episodes.windows(sizes.history + sizes.reach, frame_skip=sizes.action_block)) == 0:
        raise ValueError(
            f"episodes has no window of {sizes.history + sizes.reach} frames, the model's history and reach"
        )
    before = measure(model)
    contexts, goals = starts(model, episodes, config)
    plans = make_plans(planner, contexts, goals, config, progress=progress)[:, : sizes.chunk]
    taught = imitate(model, contexts, goals, plans, config, progress=progress)
    after = measure(taught)
    kept = after >= before
    return Distilled(taught if kept else model, kept, before, after)


@torch.no_grad()
def starts(model: LatentWAM, episodes: Episodes, config: DistillConfig) -> tuple[Tensor, Tensor]:
    """Contexts [N, K, E], K the model's history, and goals [N, E], 1 .. reach blocks ahead in the same episode.

    Of the first `imagined` the last frames are where the policy led, as far as it went, and those before it the data's.
    """
    sizes, rng = model.config, np.random.default_rng((config.seed, 0))
    skip = sizes.action_block
    windows = episodes.windows(sizes.history + sizes.reach, frame_skip=skip)
    rows = windows[rng.integers(len(windows), size=config.plans)]
    ahead = sizes.history - 1 + rng.integers(1, sizes.reach + 1, config.plans)
    contexts, goals = [], []
    model.eval()
    for some, far in zip(_parts(rows, config.batch), _parts(ahead, config.batch), strict=True):
        seen = episodes.batch(some, sizes.history, frame_skip=skip, columns=("pixels",))["pixels"]
        aim = episodes.batch(some + far * skip, 1, columns=("pixels",))["pixels"][:, 0]
        contexts.append(model.encode(torch.as_tensor(seen)))
        goals.append(model.encode(torch.as_tensor(aim)))
    context, goal = torch.cat(contexts), torch.cat(goals)
    moved = round(config.imagined * config.plans)
    if moved:
        random = torch.Generator().manual_seed(config.seed)
        actions = model.policy(context[:moved], goal[:moved], 1, random)
        led = model.rollout(context[:moved, -1:], actions)[:, 0]  # [moved, chunk, E]
        frames = torch.cat([context[:moved], led], dim=1)
        first = torch.as_tensor(1 + rng.integers(sizes.chunk, size=moved))
        context[:moved] = frames[torch.arange(moved)[:, None], first[:, None] + torch.arange(sizes.history)]
    return context, goal


def make_plans(
    planner: Planner, contexts: Tensor, goals: Tensor, config: DistillConfig, *, progress: bool = False
) -> Tensor:
    """Plans [N, T, A] in environment units, a function of the seed and of each start's place alone."""
    found = []
    bar = tqdm(total=len(contexts), unit="plan", disable=not progress)
    for first in range(0, len(contexts), config.batch):
        place = slice(first, first + config.batch)
        obs: dict[str, Any] = {"latents": contexts[place][:, -1:]}  # no action between frames is known
        rows = torch.arange(len(contexts))[place]
        found.append(planner.plan(obs, goals[place], generator=config.seed, environments=rows).actions)
        bar.update(len(rows))
    bar.close()
    return torch.cat(found)


def imitate(
    model: LatentWAM,
    contexts: Tensor,
    goals: Tensor,
    actions: Tensor,
    config: DistillConfig,
    *,
    progress: bool = False,
) -> LatentWAM:
    """A copy of the model whose policy has learned actions [N, chunk, A] from contexts [N, K, E] to goals [N, E]."""
    taught = copy.deepcopy(model).train()
    taught.requires_grad_(False)
    learned: list[nn.Parameter] = []
    for name, parameter in taught.named_parameters():
        if name.split(".")[0] in ACTIONS:
            parameter.requires_grad_(True)
            learned.append(parameter)
    optimizer = torch.optim.AdamW(learned, lr=config.learning_rate, weight_decay=0.0)
    rng = np.random.default_rng((config.seed, 1))
    random = torch.Generator().manual_seed(config.seed)
    for step in trange(config.steps, unit="step", disable=not progress):
        optimizer.param_groups[0]["lr"] = (
            config.learning_rate * (1 + math.cos(math.pi * step / config.steps)) / 2
        )
        rows = torch.as_tensor(rng.integers(len(contexts), size=min(config.batch_size, len(contexts))))
        loss = policy_loss(taught, contexts[rows], goals[rows], actions[rows], random)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, config.gradient_clip)
        optimizer.step()
    taught.requires_grad_(True)
    return taught.eval()


def policy_loss(
    model: LatentWAM, context: Tensor, goal: Tensor, actions: Tensor, generator: torch.Generator
) -> Tensor:
    """Flow matching, or the negative log-likelihood per number, of actions [B, T, A] in environment units."""
    now, count = context.shape[1] - 1, actions.shape[1]
    with torch.no_grad():
        seen = model.watch(context)[1]
    memory = join(seen, model.goal_memory(goal, len(goal), now))
    target = model.normalise(actions)
    if model.config.action_head == "mixture":
        tokens = model.action_tokens(memory, now, count, None, None, None)
        return -mixture_log_prob(model.mixture(tokens), target).mean() / target[0].numel()
    noise = torch.randn(target.shape, generator=generator)
    time = torch.rand(len(target), generator=generator)
    noisy, velocity = flow_target(target, noise, time)
    tokens = model.action_tokens(memory, now, count, noisy, time, None)
    return (model.velocity(tokens) - velocity).square().mean()


def _parts(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]
