"""SIGReg: latents are pushed towards an isotropic Gaussian through random one-dimensional projections.

For each unit direction the Epps-Pulley statistic compares the empirical characteristic function of the projected
batch with that of a standard normal (LeJEPA, arXiv:2511.08544). Its formula is in fastwm/reference/sigreg.py.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn

from fastwm.objectives import processes
from fastwm.ops.sigreg import epps_pulley, sigreg

__all__ = ["SIGReg", "epps_pulley"]


class SIGReg(nn.Module):
    """Sliced Epps-Pulley statistic, averaged over fresh Gaussian directions and over time.

    synchronise: the batch is that of all processes of torch.distributed, whose first draws the directions. By default so
    wherever torch.distributed is initialised. Its statistic grows with the batch: a mean over parts is not that of the
    whole. Under DistributedDataParallel gradients equal those of one process with the whole batch (`fastwm.ops.sigreg`).
    """

    def __init__(self, knots: int = 17, projections: int = 1024, *, synchronise: bool | None = None) -> None:
        super().__init__()
        if knots < 2 or projections < 1:
            raise ValueError(f"knots is {knots} and projections {projections}; expected at least 2 and 1")
        self.knots = knots
        self.projections = projections
        self.synchronise = synchronise

    def forward(self, latents: torch.Tensor, *, generator: torch.Generator | None = None) -> torch.Tensor:
        """latents [T, B, E] -> scalar; `generator` draws the directions."""
        if latents.ndim != 3:
            raise ValueError(f"latents has shape {list(latents.shape)}; expected [T, B, E]")
        group = self._group()
        latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
        directions = torch.randn(latents.shape[-1], self.projections, generator=generator)
        directions = (directions * directions.square().sum(0).rsqrt()).to(latents)  # [E, projections]
        if group is not None:
            dist.broadcast(directions, src=0, group=group)
        return sigreg(latents, directions, self.knots, group=group).mean()

    def _group(self) -> dist.ProcessGroup | None:
        initialised = dist.is_available() and dist.is_initialized()
        if self.synchronise and not initialised:
            raise RuntimeError("synchronise is True, expected torch.distributed to be initialised")
        shared = initialised and self.synchronise is not False and not processes.is_alone()
        return dist.group.WORLD if shared else None
