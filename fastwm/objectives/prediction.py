"""Prediction error in latent space: from true latents (teacher forcing), and from the model's own predictions."""

from __future__ import annotations

from collections.abc import Callable

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


class RolloutLoss(nn.Module):
    """Mean squared error of the latents that a model predicts from its own predictions, `steps` deep.

    A planner rolls a model out; teacher forcing shows it true latents alone (V-JEPA 2-AC, arXiv:2506.09985, section 3.1: two
    steps). The first step is teacher forcing's own and does not count here: 1 step is a loss of 0. As in `PredictionLoss`,
    targets keep their gradient.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise ValueError(f"steps is {steps!r}; expected an integer of at least 1")
        self.steps = steps

    def forward(
        self,
        rollout: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
        latents: torch.Tensor,
        actions: torch.Tensor,
    ) -> torch.Tensor:
        """latents [B, T, E], actions [B, T-1, A] -> scalar: the last `steps` latents from those before them.

        rollout: context [B, K, E], candidates [B, 1, steps, A], past actions [B, K-1, A] -> [B, 1, steps, E], as
        `WorldModel.rollout`.
        """
        context = latents.shape[1] - self.steps
        if latents.ndim != 3 or context < 1:
            came = list(latents.shape)
            raise ValueError(f"latents has shape {came}; expected [B, T > {self.steps} steps, E]")
        if actions.ndim != 3 or actions.shape[:2] != (latents.shape[0], latents.shape[1] - 1):
            expected = f"[{latents.shape[0]}, {latents.shape[1] - 1}, A]"
            raise ValueError(f"actions has shape {list(actions.shape)}; expected {expected}")
        if self.steps == 1:
            return latents.new_zeros(())
        past, ahead = actions[:, : context - 1], actions[:, None, context - 1 :]
        rolled = rollout(latents[:, :context], ahead, past)[:, 0]  # [B, steps, E]
        return F.mse_loss(rolled[:, 1:], latents[:, context + 1 :])
