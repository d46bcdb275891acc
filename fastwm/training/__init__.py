"""Training of world models: the loop, its checkpoints, and measurements of a model's health."""

from fastwm.training.config import TrainConfig
from fastwm.training.health import Health, measure_health
from fastwm.training.loop import TrainResult, train

__all__ = ["Health", "TrainConfig", "TrainResult", "measure_health", "train"]
