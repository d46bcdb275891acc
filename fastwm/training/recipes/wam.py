"""LatentWAM's objective: one pass trains dynamics, policy and distance together, without leaking one into another.

Losses after LeWAM (arXiv:2610.12818): |zhat - z|^2 with the target not detached, flow matching or likelihood of the actions
to a goal that the same episode reaches later (hindsight, arXiv:1707.01495), its distance in blocks, and SIGReg. The video
mode is trained by every frame, the inverse mode by a share of the samples. Clips without actions (NaN) train encoder and
video alone.
"""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastwm.data import Episodes
from fastwm.models.wam import LatentWAM, LatentWAMConfig
from fastwm.models.wam.heads import mixture_log_prob
from fastwm.models.wam.trunk import Memory, join
from fastwm.objectives import SIGReg
from fastwm.objectives.flow_matching import flow_target
from fastwm.objectives.processes import total
from fastwm.training import outcomes
from fastwm.training.config import RunConfig
from fastwm.training.health import effective_rank, linear_probe_r2
from fastwm.training.recipe import RESIZE, Measures, Recipe, origin
from fastwm.training.sampler import evenly_spaced

JUDGED = 96  # validation windows


@dataclasses.dataclass(frozen=True)
class WamTrainConfig(RunConfig):
    """A run of `WamRecipe`. unroll: steps on its own predictions, 1 is teacher forcing alone.

    outcomes_of: what a row's `reward` and `terminated` are of: the "action" that is taken there (LeRobot, D4RL), or the "frame"
    that was arrived at (stable-worldmodel, which moves actions back by a row, but nothing else).
    """

    unroll: int = 3
    policy_weight: float = 1.0
    distance_weight: float = 0.2
    video_weight: float = 0.1
    reward_weight: float = 0.2  # of models with such heads, as is the next
    termination_weight: float = 0.2
    outcomes_of: outcomes.Rows = "action"
    regulariser_weight: float = 0.1
    inverse_share: float = 0.25  # of the samples, whose action slots also see where their blocks led
    goal_dropout: float = 0.1
    expectile: float = 0.2  # distances lean to the shortest seen
    projections: int = 128
    knots: int = 17

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_integers(unroll=1, projections=1, knots=2)
        self._check_numbers("policy_weight", "distance_weight", "video_weight", "regulariser_weight")
        self._check_numbers("reward_weight", "termination_weight")
        if self.outcomes_of not in get_args(outcomes.Rows):
            raise ValueError(f"outcomes_of is {self.outcomes_of!r}; expected 'action' or 'frame'")
        for name in ("inverse_share", "goal_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a share from 0 to 1")
        if not 0 < self.expectile < 1:
            raise ValueError(f"expectile is {self.expectile!r}; expected a number between 0 and 1")


class WamRecipe(Recipe):
    """A `LatentWAM`, learned end to end from pixels [b, L, size, size, 3] and actions [b, L-1, A]."""

    losses: tuple[str, ...] = ("dynamics", "video", "policy", "distance", "regulariser")
    measures: tuple[str, ...] = (
        "prediction", "open_loop", "copy_last", "policy_error", "inverse_error", "mean_error", "distance_error",
        "probe_r2", "effective_rank", "latent_std", "latent_std_least",
    )  # fmt: skip

    def __init__(self, model_config: LatentWAMConfig, config: WamTrainConfig) -> None:
        super().__init__()
        self.config = config
        self.model = LatentWAM(model_config)
        self.model.encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        heads = outcomes.heads(model_config)
        self.losses = (*self.losses, *heads)
        self.measures = (*self.measures, *(f"{name}_error" for name in heads))
        self.regulariser = SIGReg(config.knots, config.projections)
        self.frames = model_config.history + config.unroll + 1  # encoded: the last one is the goal's
        self.now = model_config.history - 1  # the frame that the policy acts in

    @property
    def length(self) -> int:
        """Frames of a window: the farthest goal and the whole chunk fit into it."""
        config = self.model.config
        return config.history + max(config.reach, config.chunk, self.config.unroll)

    def description(self) -> dict[str, Any]:
        return self.model.config.to_dict()

    def check(self, episodes: Episodes, training: Episodes, validation: Episodes) -> None:
        config = self.model.config
        for name, part in (("training", training), ("validation", validation)):
            if len(self.windows(part)) == 0:
                raise ValueError(
                    f"the data has no {name} sequence of {self.length} frames {config.action_block} decisions apart: "
                    f"its longest episode has {max(episodes.lengths, default=0)}; a smaller reach or chunk needs fewer"
                )
        numbers = episodes.action_dim * config.action_block
        if numbers != config.action_dim:
            raise ValueError(
                f"action blocks of the data hold {numbers} numbers; action_dim is {config.action_dim}"
            )
        image = list(episodes.batch(self.windows(training)[:1], 1, columns=("pixels",))["pixels"].shape[2:])
        if image != [config.image_size, config.image_size, 3]:
            raise ValueError(f"images of the data are {image}; image_size is {config.image_size}{RESIZE}")
        outcomes.check(config, episodes)

    def prepare(self, training: Episodes) -> None:
        self.model.metadata = origin(training)
        mean, std = training.action_statistics(self.model.config.action_block)
        self.model.set_action_statistics(torch.as_tensor(mean), torch.as_tensor(std))
        outcomes.prepare(self.model, training, self.windows(training), self.length, self.config.outcomes_of)

    def windows(self, episodes: Episodes) -> NDArray[np.int64]:
        return episodes.windows(self.length, frame_skip=self.model.config.action_block)

    def batch(self, episodes: Episodes, starts: NDArray[np.int64]) -> dict[str, Tensor]:
        skip = self.model.config.action_block
        found = episodes.batch(starts, self.length, frame_skip=skip, columns=("pixels", "action"))
        found |= outcomes.read(self.model.config, episodes, starts, self.length, self.config.outcomes_of)
        return {name: torch.as_tensor(values) for name, values in found.items()}

    def draws(self, rng: np.random.Generator, count: int) -> dict[str, Tensor]:
        config = self.model.config
        shape = (count, config.chunk, config.action_dim)
        return {
            "goal": torch.as_tensor(rng.integers(1, config.reach + 1, count)),  # blocks from now
            "dropped": torch.as_tensor(rng.random(count) < self.config.goal_dropout),
            "inverse": torch.as_tensor(rng.random(count) < self.config.inverse_share),
            "time": torch.as_tensor(rng.random(count, np.float32)),
            "noise": torch.as_tensor(rng.standard_normal(shape, np.float32)),
        }

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        model, config, now = self.model, self.config, self.now
        rows, seen = (
            torch.arange(len(batch["goal"]), device=batch["goal"].device),
            model.config.history + config.unroll,
        )
        shown = [batch["pixels"][:, :seen], batch["pixels"][rows, now + batch["goal"]][:, None]]
        latents = model.encode(torch.cat(shown, dim=1))  # [b, F+1, E]
        frames, goal = latents[:, :-1], latents[:, -1]
        known = batch["action"].isfinite().flatten(1).all(1)  # [b]: clips with actions
        actions = torch.where(known[:, None, None], batch["action"], model.action_mean)

        imagined, memory = model.watch(frames)
        forward = model.predict(frames[:, :-1], actions[:, : seen - 1])
        first = max(0, now + 1 - model.config.window)
        rolled = model.rollout(
            frames[:, first : now + 1], actions[:, None, now : now + config.unroll], actions[:, first:now]
        )[:, 0]  # [b, unroll, E]
        policy = self._policy(memory, seen, goal, actions[:, now : now + model.config.chunk], batch)
        ahead = batch["goal"][:, None] - torch.arange(
            config.unroll + 1, device=rows.device
        )  # of frames now, now + 1, ...
        distance = self._distance(frames[:, now:], rolled, goal, ahead.float())
        with torch.autocast(latents.device.type, enabled=False):
            taught = (forward - frames[:, 1:]).square().mean(dim=(1, 2))
            free = (rolled - frames[:, now + 1 :]).square().mean(dim=(1, 2))
            dynamics = _mean((taught + free) / 2, known)
            video = (imagined[:, :-1] - frames[:, 1:].detach()).square().mean()
            policy = _mean(policy, known)
            regulariser = self.regulariser(latents.transpose(0, 1))
            loss = dynamics + config.video_weight * video + config.policy_weight * policy
            loss = loss + config.distance_weight * distance + config.regulariser_weight * regulariser
            heads = outcomes.losses(model, latents, rolled, actions, now, batch)
            for name, value in heads.items():
                loss = loss + getattr(config, f"{name}_weight") * value
        return {
            "loss": loss,
            "dynamics": dynamics,
            "video": video,
            "policy": policy,
            "distance": distance,
            "regulariser": regulariser,
            **heads,
        }

    def _policy(
        self, memory: Memory, frames: int, goal: Tensor, actions: Tensor, batch: dict[str, Tensor]
    ) -> Tensor:
        """Loss of each sample [b]. memory: of frames [b, F, E]; actions [b, chunk, A] in environment units."""
        model, now, count = self.model, self.now, actions.shape[1]
        inverse = batch["inverse"]
        memory = join(memory, model.goal_memory(goal, len(goal), now, batch["dropped"] | inverse))
        mask = model.action_mask(len(goal), frames, count, now + 1, inverse)
        target = model.normalise(actions)
        if model.config.action_head == "mixture":
            tokens = model.action_tokens(memory, now, count, None, None, mask)
            return -mixture_log_prob(model.mixture(tokens), target) / target[0].numel()
        noisy, velocity = flow_target(target, batch["noise"], batch["time"])
        tokens = model.action_tokens(memory, now, count, noisy, batch["time"], mask)
        return (model.velocity(tokens).float() - velocity).square().mean(dim=(1, 2))

    def _distance(self, frames: Tensor, rolled: Tensor, goal: Tensor, ahead: Tensor) -> Tensor:
        """Expectile loss of the distance of frames and of predictions, in units of `reach`. ahead [b, F]: below 0 is behind."""
        reach = self.model.config.reach
        both = torch.cat([frames, rolled], dim=1)
        target = torch.cat([ahead, ahead[:, 1:]], dim=1)
        found = self.model.distance(both, goal[:, None].expand_as(both)).float()
        error = (found - target) / reach
        weight = torch.where(error > 0, 1 - self.config.expectile, self.config.expectile)
        counts = (target >= 0).float()
        return total((counts * weight * error.square()).sum()) / total(counts.sum())

    @torch.no_grad()
    def validate(self, training: Episodes, validation: Episodes) -> Measures:
        was_training = self.training
        self.eval()
        try:
            return self._measure(training, validation)
        finally:
            self.train(was_training)

    def _measure(self, training: Episodes, validation: Episodes) -> Measures:
        model, now = self.model, self.now
        batch = self.batch(validation, evenly_spaced(self.windows(validation), JUDGED))
        device = model.action_mean.device
        latents = torch.cat([model.encode(part.to(device)) for part in batch["pixels"].split(32)])
        actions, chunk = batch["action"].to(device), model.config.chunk
        taught = model.predict(latents[:, :-1], actions)
        last = min(chunk, latents.shape[1] - 1 - now)
        rolled = model.rollout(latents[:, now : now + 1], actions[:, None, now : now + last])[:, 0, -1]
        generator = torch.Generator().manual_seed(0)
        goal = latents[:, now + last]
        said = model.policy(latents[:, : now + 1], goal, 1, generator, horizon=last)[:, 0]
        did = actions[:, now : now + last]
        few = min(last, self.config.unroll)  # as far as inverse mode is taught
        told = model.inverse(latents[:, now : now + few + 1], generator=generator)
        std = latents[:, now].std(dim=0)

        def error(guess: Tensor) -> float:  # mean square, in variances of the training actions
            return ((guess - did[:, : guess.shape[1]]) / model.action_std).square().mean().item()

        probes: list[float] = []
        if "state" in training.columns:
            sides: list[Any] = []
            for part in (training, validation):
                found = part.batch(evenly_spaced(part.windows(1), 8 * JUDGED), 1, columns=("pixels", "state"))
                pixels = torch.as_tensor(found["pixels"][:, 0])
                sides += [
                    torch.cat([model.encode(few.to(device)).cpu() for few in pixels.split(256)]),
                    found["state"][:, 0],
                ]
            probes = [r2 for r2 in linear_probe_r2(*sides) if r2 == r2]
        return {
            "prediction": (taught - latents[:, 1:]).square().mean().item(),
            "open_loop": (rolled - goal).square().mean().item(),
            "copy_last": (latents[:, now] - goal).square().mean().item(),
            "policy_error": error(said),
            "inverse_error": error(told),
            "mean_error": error(model.action_mean.expand_as(did)),
            "distance_error": (model.distance(latents[:, now], goal) - last).abs().mean().item(),
            "probe_r2": statistics.fmean(probes) if probes else None,
            "effective_rank": effective_rank(latents.flatten(0, 1)),
            "latent_std": std.mean().item(),
            "latent_std_least": std.min().item(),
            **outcomes.errors(model, latents[:, 1:], actions, batch),
        }

    def save(self, directory: Path, validation: Episodes) -> None:
        self.model.save(directory)


def _mean(each: Tensor, counts: Tensor) -> Tensor:
    """Mean of [b] over those that count, on all processes; 0 where none does."""
    return total(torch.where(counts, each, 0.0).sum()) / total(counts.sum().float()).clamp(min=1)


__all__ = ["WamRecipe", "WamTrainConfig"]
