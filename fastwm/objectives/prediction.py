"""Teacher-forced prediction error in latent space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class PredictionLoss(nn.Module):
    """Mean squared error of predicted latents against the encoder's own.

    The targets keep their gradient: no stop-gradient, no target network (LeWM, arXiv:2603.19312).
    """

    def forward(self, predicted: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """predicted [T-1, B, E] for times 1..T-1, latents [T, B, E] -> scalar"""
        if latents.ndim != 3 or predicted.shape != (latents.shape[0] - 1, *latents.shape[1:]):
            came, other = list(predicted.shape), list(latents.shape)
            raise ValueError(f"predicted has shape {came}; expected [T-1, B, E] for latents of shape {other}")
        return F.mse_loss(predicted, latents[1:])
