"""Training: the loop, recipes of what is trained, checkpoints, and measurements of a model's health."""

from fastwm.training.config import RunConfig, TrainConfig
from fastwm.training.health import Health, measure_health
from fastwm.training.loop import RunResult, train_recipe
from fastwm.training.recipe import Recipe
from fastwm.training.world_model import TrainResult, train

__all__ = [
    "Health",
    "Recipe",
    "RunConfig",
    "RunResult",
    "TrainConfig",
    "TrainResult",
    "measure_health",
    "train",
    "train_recipe",
]
