"""The kernels as torch ops: check the arguments, make the outputs, run the kernel of the instruction set in
use."""

from fastwm.ops.adaln import adaln
from fastwm.ops.attention import attention
from fastwm.ops.cem_sample import cem_sample
from fastwm.ops.cem_update import cem_update
from fastwm.ops.frame_attention import frame_attention
from fastwm.ops.gated_residual import gated_residual
from fastwm.ops.goal_cost import goal_cost
from fastwm.ops.linear import linear
from fastwm.ops.sigreg import sigreg

__all__ = [
    "adaln",
    "attention",
    "cem_sample",
    "cem_update",
    "frame_attention",
    "gated_residual",
    "goal_cost",
    "linear",
    "sigreg",
]
