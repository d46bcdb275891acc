"""SIGReg: latents are pushed towards an isotropic Gaussian through random one-dimensional projections.

For each unit direction the Epps-Pulley statistic compares the empirical characteristic function of the projected
batch with that of a standard normal (LeJEPA, arXiv:2511.08544). Its formula is in fastwm/reference/sigreg.py.
"""

from __future__ import annotations

import torch
from torch import nn

from fastwm.ops.sigreg import epps_pulley, sigreg

__all__ = ["SIGReg", "epps_pulley"]


class SIGReg(nn.Module):
    """Sliced Epps-Pulley statistic, averaged over fresh Gaussian directions and over time."""

    def __init__(self, knots: int = 17, projections: int = 1024) -> None:
        super().__init__()
        if knots < 2 or projections < 1:
            raise ValueError(f"knots is {knots} and projections {projections}; expected at least 2 and 1")
        self.knots = knots
        self.projections = projections

    def forward(self, latents: torch.Tensor, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """latents [T, B, E] -> scalar; `generator` draws the directions."""
        if latents.ndim != 3:
            raise ValueError(f"latents has shape {list(latents.shape)}; expected [T, B, E]")
        latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
        directions = torch.randn(latents.shape[-1], self.projections, generator=generator)
        directions = (directions / directions.norm(dim=0)).to(latents)  # [E, projections]
        return sigreg(latents, directions, self.knots).mean()
