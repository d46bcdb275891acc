"""Every kernel in plain float32 PyTorch: the oracle of the tests and the fallback where no kernel runs."""

from fastwm.reference.cem_sample import cem_sample
from fastwm.reference.cem_update import cem_update
from fastwm.reference.goal_cost import goal_cost
from fastwm.reference.sigreg import sigreg

__all__ = ["cem_sample", "cem_update", "goal_cost", "sigreg"]
