"""Every kernel in plain float32 PyTorch: the oracle of the tests and the fallback where no kernel runs."""

from fastwm.reference.adaln import adaln, adaln_backward
from fastwm.reference.attention import attention, attention_backward
from fastwm.reference.cem_sample import cem_sample
from fastwm.reference.cem_update import cem_update
from fastwm.reference.frame_attention import frame_attention
from fastwm.reference.gated_residual import gated_residual, gated_residual_backward
from fastwm.reference.goal_cost import goal_cost
from fastwm.reference.linear import linear
from fastwm.reference.sigreg import sigreg

__all__ = [
    "adaln",
    "adaln_backward",
    "attention",
    "attention_backward",
    "cem_sample",
    "cem_update",
    "frame_attention",
    "gated_residual",
    "gated_residual_backward",
    "goal_cost",
    "linear",
    "sigreg",
]
