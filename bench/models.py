"""World models with random weights, at sizes that are used."""

from __future__ import annotations

import functools

import torch

from fastwm.models import WorldModel, WorldModelConfig

LEWM_ACTIONS = 10  # five environment decisions of two numbers, as LeWM is published


@functools.cache
def demo_model(preset: str) -> WorldModel:
    """The model of the demo's worlds: "small" (push: 96 wide, 1 layer) or "mlp" (two-room)."""
    return _random(WorldModelConfig.preset(preset, action_dim=2))


@functools.cache
def lewm_model() -> WorldModel:
    """LeWM as published: E 192, 6 layers, 16 heads of 64, MLP 2048."""
    return _random(WorldModelConfig.preset("paper", action_dim=LEWM_ACTIONS))


@functools.cache
def small_model() -> WorldModel:
    """A transformer of the published form with E 64, 3 layers, 4 heads of 16."""
    sizes = {"embed_dim": 64, "width": 64, "depth": 3, "heads": 4, "head_dim": 16, "mlp_dim": 256}
    sizes |= {"projector_dim": 256, "action_hidden": 256}
    encoder = {"encoder": "patch_conv", "image_size": 16, "encoder_width": 1}
    return _random(WorldModelConfig.preset("paper", action_dim=LEWM_ACTIONS, **sizes, **encoder))


@functools.cache
def tiny_model() -> WorldModel:
    """The published form at the least size: for rehearsals, never for results."""
    sizes = {"embed_dim": 16, "width": 16, "depth": 1, "heads": 2, "head_dim": 8, "mlp_dim": 32}
    sizes |= {"projector_dim": 32, "action_hidden": 16}
    encoder = {"encoder": "patch_conv", "image_size": 16, "encoder_width": 1}
    return _random(WorldModelConfig.preset("paper", action_dim=3, **sizes, **encoder))


def _random(config: WorldModelConfig) -> WorldModel:
    """Random weights that do something.

    A new model's AdaLN and residual head are zero, and would hide errors. Its embeddings of standard normal actions have a
    fifth of the variance that training gives them: its candidates hardly differ, and no ranking of them means anything.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = WorldModel(config).eval().requires_grad_(False)
        for weight in model.parameters():
            if weight.ndim > 1 and not weight.any():
                torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    last = model.action_encoder[2]
    actions = torch.randn(4096, config.action_dim, generator=torch.Generator().manual_seed(2))
    deviation = model.embed_actions(actions).std(0).mean()
    last.weight /= deviation
    last.bias /= deviation
    return model


@functools.cache
def transformer(*, depth: int = 6, width: int = 192) -> WorldModel:
    """LeWM with another depth, or all its widths in proportion (heads of 64); pixels are encoded by next to nothing."""
    sizes = {
        "depth": depth,
        "width": width,
        "embed_dim": width,
        "heads": width // 12,
        "mlp_dim": width * 32 // 3,
    }
    sizes |= {"projector_dim": width * 32 // 3, "action_hidden": 4 * width}
    encoder = {"encoder": "patch_conv", "image_size": 16, "encoder_width": 1}
    return _random(WorldModelConfig.preset("paper", action_dim=LEWM_ACTIONS, **sizes, **encoder))
