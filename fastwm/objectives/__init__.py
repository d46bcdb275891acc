"""What training minimises, on latents [T, B, E]: a prediction error, and a regulariser against collapse."""

from fastwm.objectives.prediction import PredictionLoss, RolloutLoss
from fastwm.objectives.sigreg import SIGReg
from fastwm.objectives.vicreg import VICReg

__all__ = ["PredictionLoss", "RolloutLoss", "SIGReg", "VICReg"]
