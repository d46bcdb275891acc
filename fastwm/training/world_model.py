"""Training a world model: the loop with the world model's recipe."""

from __future__ import annotations

import dataclasses
import os

from fastwm.models import WorldModel, WorldModelConfig
from fastwm.training.config import TrainConfig
from fastwm.training.health import Health
from fastwm.training.loop import train_recipe
from fastwm.training.recipes.world_model import WorldModelRecipe


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """A finished run. `seconds` and `frames_per_second` count the steps of this call alone."""

    model: WorldModel
    health: Health
    seconds: float
    frames_per_second: float


def train(
    data_path: str | os.PathLike[str],
    run_dir: str | os.PathLike[str],
    model_config: WorldModelConfig,
    train_config: TrainConfig,
    *,
    resume: bool = False,
    progress: bool = True,
) -> TrainResult:
    """Train a world model on the episodes of `data_path` and write it to `run_dir`; see `loop.train_recipe`."""
    result = train_recipe(
        lambda: WorldModelRecipe(model_config, train_config),
        data_path,
        run_dir,
        train_config,
        resume=resume,
        progress=progress,
    )
    recipe = result.recipe
    if recipe.model.calibration is None:  # no step was left to run
        recipe.model.calibration = WorldModel.load(run_dir).calibration
    assert recipe.health is not None  # measured at the last step, or after it
    return TrainResult(recipe.model, recipe.health, result.seconds, result.frames_per_second)
