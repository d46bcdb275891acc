"""The World Action Model: one network that predicts latents and proposes actions."""

from fastwm.models.wam.config import LatentWAMConfig
from fastwm.models.wam.model import LatentWAM

__all__ = ["LatentWAM", "LatentWAMConfig"]
