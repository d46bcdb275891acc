"""What is learned: an encoder of pixels and an action-conditioned predictor of the next latent."""

from fastwm.models.config import CONFIG_VERSION, WorldModelConfig
from fastwm.models.encoder import PatchConvEncoder, ViTEncoder
from fastwm.models.heads import Projector
from fastwm.models.predictor import AdaLNPredictor, MLPPredictor
from fastwm.models.world_model import WorldModel

load = WorldModel.load

__all__ = [
    "CONFIG_VERSION",
    "AdaLNPredictor",
    "MLPPredictor",
    "PatchConvEncoder",
    "Projector",
    "ViTEncoder",
    "WorldModel",
    "WorldModelConfig",
    "load",
]
