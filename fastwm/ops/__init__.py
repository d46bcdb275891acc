"""The kernels as torch ops: check the arguments, make the outputs, run the kernel of the instruction set in
use."""

from fastwm.ops.cem_sample import cem_sample
from fastwm.ops.cem_update import cem_update
from fastwm.ops.goal_cost import goal_cost
from fastwm.ops.sigreg import sigreg

__all__ = ["cem_sample", "cem_update", "goal_cost", "sigreg"]
