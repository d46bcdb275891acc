"""fastwm.models.LatentWAM -> spec and encoder of its forward mode. Its policy goes to the planner as a `LatentPolicy`."""

from __future__ import annotations

from typing import Any

import torch

from fastwm.engine.engine import Imported
from fastwm.engine.importers import parts
from fastwm.engine.importers.own import import_pixel_model
from fastwm.engine.spec import PredictorSpec
from fastwm.models.wam import LatentWAM


def import_wam(model: LatentWAM) -> Imported:
    """A copy of the encoder, and the state stream as data. ValueError where the window is more than one."""
    if model.config.window != 1:
        raise ValueError(
            f"window is {model.config.window}, expected 1: engines have no rotations; model.rollout is in PyTorch"
        )
    return import_pixel_model(model, predictor_spec)


def predictor_spec(model: LatentWAM) -> PredictorSpec:
    """The state slots of a window of one as data: a token that sees itself alone is turned by no rotation."""
    config = model.config
    blocks: Any = model.state_stream.blocks
    return PredictorSpec(
        dynamics="transformer",
        embed_dim=config.embed_dim,
        action_dim=config.action_dim,
        residual=True,
        action=parts.action_encoder(model, model.action_encoder),
        head=[parts.dense(model.latent_head.fc1, "gelu"), parts.dense(model.latent_head.fc2)],
        window=1,
        heads=config.heads,
        head_dim=config.head_dim,
        position=torch.zeros(1, config.embed_dim),
        input=parts.dense(model.state_input),
        layers=[parts.adaln_layer(block) for block in blocks],
        norm=parts.layer_norm(model.state_stream.norm),
    ).validate()
