"""The error of predicted tokens against a target encoder's."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn


class MaskedPredictionLoss(nn.Module):
    """Distance of predictions from the target's tokens, each layer-normalised and without a gradient.

    "smooth_l1" is I-JEPA's (arXiv:2301.08243, section 3), "l1" V-JEPA's (arXiv:2404.08471, section 3.1).
    """

    def __init__(self, distance: Literal["smooth_l1", "l1"]) -> None:
        super().__init__()
        if distance not in ("smooth_l1", "l1"):
            raise ValueError(f"distance is {distance!r}; expected 'smooth_l1' or 'l1'")
        self.distance = F.smooth_l1_loss if distance == "smooth_l1" else F.l1_loss

    def forward(self, predicted: torch.Tensor, targets: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """predicted [B, M, m, E] for the tokens at places [B, M, m] of targets [B, N, E] -> scalar"""
        if places.ndim != 3 or predicted.shape[:3] != places.shape or predicted.shape[0] != len(targets):
            came = f"{list(predicted.shape)} with places {list(places.shape)}"
            raise ValueError(
                f"predicted has shape {came} and targets {list(targets.shape)}; expected [B, M, m, E]"
            )
        wanted = F.layer_norm(targets.detach().float(), targets.shape[-1:])
        rows = places.flatten(1)[..., None].expand(-1, -1, wanted.shape[-1])
        return self.distance(predicted.float(), wanted.gather(1, rows).view(predicted.shape))
