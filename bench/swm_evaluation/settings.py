"""What the evaluation is made of: one place, saved beside the results."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from fastwm.models import WorldModelConfig
from fastwm.training import TrainConfig

ENV = "swm/TwoRoom-v1"  # drawn at 224 x 224
SIZE = 64  # pixels of the frames that the model sees, resized by their World
BLOCK = 5  # environment steps of an action block
LENGTH = 100  # most steps of a collected episode


@dataclass(frozen=True)
class Tasks:
    """Goals as their evaluation takes them: what an episode of the data looks like `offset` steps after the start.

    crossing: only goals in the other room. offset and budget are in environment steps; theirs are 25 and 50
    (scripts/plan/config/tworoom.yaml).
    """

    name: str
    offset: int
    budget: int
    crossing: bool


@dataclass(frozen=True)
class Settings:
    """Sizes of the whole run. samples, steps, topk, horizon, receding: their CEMSolver and PlanConfig, as they publish them."""

    train_episodes: int = 600
    task_episodes: int = 160
    train_steps: int = 2500
    seed: int = 0

    samples: int = 300
    steps: int = 30
    topk: int = 30
    horizon: int = 5
    receding: int = 5

    tasks: tuple[Tasks, ...] = (
        Tasks("25 steps ahead", 25, 50, False),
        Tasks("the other room", 50, 100, True),
    )
    episodes: dict[int, int] = dataclasses.field(
        default_factory=lambda: {1: 16, 8: 40}
    )  # environments: episodes
    threads: int = 2

    def model(self) -> WorldModelConfig:
        """LeWM's published predictor, which gives the next latent itself, in a size that trains in minutes."""
        return WorldModelConfig.preset(
            "small",
            action_dim=2 * BLOCK,
            action_block=BLOCK,
            residual=False,
            width=128,
            depth=2,
            mlp_dim=512,
        )

    def training(self) -> TrainConfig:
        """fastwm's trainer on their data."""
        return TrainConfig(steps=self.train_steps, seed=self.seed, threads=self.threads, tensorboard=False)
