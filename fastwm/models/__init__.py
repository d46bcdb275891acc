"""What is learned: an encoder of pixels and an action-conditioned predictor of the next latent."""

from fastwm.models.config import CONFIG_VERSION, WorldModelConfig
from fastwm.models.encoder import PatchConvEncoder, ViTEncoder
from fastwm.models.heads import Projector
from fastwm.models.loading import load
from fastwm.models.predictor import AdaLNPredictor, MLPPredictor
from fastwm.models.wam import LatentWAM, LatentWAMConfig
from fastwm.models.world_model import WorldModel

__all__ = [
    "CONFIG_VERSION",
    "AdaLNPredictor",
    "LatentWAM",
    "LatentWAMConfig",
    "MLPPredictor",
    "PatchConvEncoder",
    "Projector",
    "ViTEncoder",
    "WorldModel",
    "WorldModelConfig",
    "load",
]
