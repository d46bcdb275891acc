"""Projection heads with batch normalisation."""

from __future__ import annotations

import torch
from torch import nn


class Projector(nn.Module):
    """Linear, BatchNorm1d, GELU, Linear over the last axis; every other axis counts as batch.

    Batch normalisation leaves the latents free to take the scale that SIGReg asks for; a final layer
    normalisation would fix the norm of each latent (LeWM, arXiv:2603.19312).
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.norm = nn.BatchNorm1d(hidden_dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in_dim] -> [..., out_dim]"""
        rows = self.fc1(x.flatten(0, -2))
        return self.fc2(self.act(self.norm(rows))).unflatten(0, x.shape[:-1])
