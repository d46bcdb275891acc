"""The latent dynamics of TD-MPC2 (arXiv:2310.16828) at its 5M size, in plain PyTorch and as a spec, with random weights.

latent 512, three NormedLinear of 512: Linear, LayerNorm, then Mish, Mish and SimNorm(8). The action enters as it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastwm.engine.spec import Dense, PredictorSpec

LATENT, HIDDEN, ACTIONS, GROUP = 512, 512, 6, 8


class SimNorm(nn.Module):
    """The softmax of every 8 neighbours."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x.unflatten(-1, (-1, GROUP)), dim=-1).flatten(-2)


class NormedLinear(nn.Linear):
    """Linear, LayerNorm, activation."""

    def __init__(self, inputs: int, outputs: int, activation: nn.Module) -> None:
        super().__init__(inputs, outputs)
        self.norm = nn.LayerNorm(outputs)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(super().forward(x)))


class Dynamics(nn.Module):
    """The next latent from the last latent and action; latents, like TD-MPC2's encoder's, are SimNorm's."""

    window, depth, embed_dim, action_dim = 1, 1, LATENT, ACTIONS

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                NormedLinear(LATENT + ACTIONS, HIDDEN, nn.Mish()),
                NormedLinear(HIDDEN, HIDDEN, nn.Mish()),
                NormedLinear(HIDDEN, LATENT, SimNorm()),
            )
            for layer in self.layers:  # a new LayerNorm's affine part is none, and would hide errors
                nn.init.normal_(layer.norm.weight, 1.0, 0.3)
                nn.init.normal_(layer.norm.bias, 0.0, 0.3)
        self.eval().requires_grad_(False)

    def embed_actions(self, actions: Tensor) -> Tensor:
        return actions

    def step(self, latents: Tensor, actions: Tensor) -> Tensor:
        """latents [N, 1, E], actions [N, 1, A] -> [N, E]"""
        return self.layers(torch.cat([latents[:, -1], actions[:, -1]], dim=-1))


def spec(model: Dynamics) -> PredictorSpec:
    """The same as data; the one action layer that a spec must have changes nothing."""
    activations = "mish", "mish", "simnorm"
    head = [
        Dense(layer.weight, layer.bias, activation, norm=(layer.norm.weight, layer.norm.bias))  # type: ignore[arg-type]
        for layer, activation in zip(model.layers, activations, strict=True)
    ]
    return PredictorSpec("mlp", LATENT, ACTIONS, False, [Dense(torch.eye(ACTIONS))], head).validate()
