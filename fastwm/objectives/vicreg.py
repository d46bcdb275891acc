"""VICReg's variance and covariance terms, the simpler alternative to SIGReg."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fastwm.objectives.processes import count, total


class VICReg(nn.Module):
    """Keeps each dimension's standard deviation above 1 and dimensions uncorrelated (arXiv:2105.04906).

    The invariance term of the paper is the prediction loss here.
    """

    def __init__(self, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        self.variance = variance
        self.covariance = covariance

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """latents [T, B, E], B >= 2 -> scalar; statistics over the batch of all processes, averaged over time."""
        if latents.ndim != 3 or latents.shape[1] < 2:
            raise ValueError(f"latents has shape {list(latents.shape)}; expected [T, B >= 2, E]")
        batch = latents.shape[1] * count()
        centred = latents - total(latents.sum(dim=1, keepdim=True)) / batch
        covariance = total(centred.transpose(1, 2) @ centred) / (batch - 1)  # [T, E, E]
        variances = covariance.diagonal(dim1=1, dim2=2)
        hinge = F.relu(1 - (variances + 1e-4).sqrt()).mean()
        off_diagonal = covariance.square().sum(dim=(1, 2)) - variances.square().sum(dim=1)
        return self.variance * hinge + self.covariance * off_diagonal.mean() / latents.shape[-1]
