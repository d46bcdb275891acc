"""fastwm.models.LatentWAM -> spec and encoder of its forward mode. Its policy goes to the planner as a `LatentPolicy`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from fastwm.engine.engine import Imported
from fastwm.engine.importers import parts, verify
from fastwm.engine.spec import Layer, PredictorSpec, fold_input_affine
from fastwm.models.wam import LatentWAM


def import_wam(model: LatentWAM) -> Imported:
    """A copy of the encoder, and the state stream as data. ValueError where the window is more than one."""
    verify.finite(model)
    if not (model.action_std > 0).all():
        raise ValueError(f"action_std is {model.action_std.tolist()}, expected numbers above 0")
    if model.config.window != 1:
        raise ValueError(
            f"window is {model.config.window}, expected 1: engines have no rotations; model.rollout is in PyTorch"
        )
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    spec = predictor_spec(frozen)
    exact = copy.deepcopy(frozen).to("cpu", torch.float32)
    verify.same(spec, lambda z, a: exact.predict(z, a)[:, -1], "LatentWAM")
    size = model.config.image_size
    return Imported(
        spec=spec,
        encode=frozen.encode,
        observation=((size, size, 3), torch.uint8),
        action_mean=parts.weight(model.action_mean),
        action_std=parts.weight(model.action_std),
        family="fastwm.LatentWAM",
        action_block=model.config.action_block,
    )


def predictor_spec(model: LatentWAM) -> PredictorSpec:
    """The state slots of a window of one as data: a token that sees itself alone is turned by no rotation."""
    config = model.config
    blocks: Any = model.state_stream.blocks
    first, activation, second = model.action_encoder
    parts.expect(activation, nn.SiLU, "action_encoder[1]")
    mean, std = model.action_mean.double().cpu(), model.action_std.double().cpu()
    return PredictorSpec(
        dynamics="transformer",
        embed_dim=config.embed_dim,
        action_dim=config.action_dim,
        residual=True,
        action=[
            fold_input_affine(parts.dense(first, "silu"), 1 / std, -mean / std),
            parts.dense(second),
        ],
        head=[parts.dense(model.latent_head.fc1, "gelu"), parts.dense(model.latent_head.fc2)],
        window=1,
        heads=config.heads,
        head_dim=config.head_dim,
        position=torch.zeros(1, config.embed_dim),
        input=parts.dense(model.state_input),
        layers=[
            Layer(
                modulation=parts.dense(block.modulation[1]),
                attention_norm=parts.layer_norm(block.attention.norm),
                qkv=parts.dense(block.attention.qkv),
                out=parts.dense(block.attention.out),
                mlp_norm=parts.layer_norm(block.mlp.norm),
                fc1=parts.dense(block.mlp.fc1, "gelu"),
                fc2=parts.dense(block.mlp.fc2),
            )
            for block in blocks
        ],
        norm=parts.layer_norm(model.state_stream.norm),
    ).validate()
