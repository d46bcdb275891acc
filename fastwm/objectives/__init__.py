"""What training minimises, on latents [T, B, E]: a prediction error, and a regulariser against collapse."""

from fastwm.objectives.prediction import PredictionLoss
from fastwm.objectives.sigreg import SIGReg
from fastwm.objectives.vicreg import VICReg

__all__ = ["PredictionLoss", "SIGReg", "VICReg"]
