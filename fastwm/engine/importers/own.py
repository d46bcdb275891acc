"""fastwm.models.WorldModel -> spec and encoder."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fastwm.engine.engine import Imported
from fastwm.engine.importers import parts, verify
from fastwm.engine.spec import Dense, PredictorSpec, fold_linear
from fastwm.models import AdaLNPredictor, MLPPredictor, WorldModel


def import_world_model(model: WorldModel) -> Imported:
    """A copy of the model's encoder, and its predictor as data."""
    imported = import_pixel_model(model, predictor_spec)
    if model.calibration is None:
        return imported
    spec = imported.spec
    return dataclasses.replace(
        imported,
        calibration=model.calibration.check(
            window=spec.window, embed_dim=spec.embed_dim, action_dim=spec.action_dim
        ),
    )


def import_pixel_model(model: Any, predictor_spec: Callable[[Any], PredictorSpec]) -> Imported:
    """A copy of a model of ours, its predictor as data, compared with the model's own predictions."""
    verify.finite(model)
    if not (model.action_std > 0).all():
        raise ValueError(f"action_std is {model.action_std.tolist()}, expected numbers above 0")
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    spec = predictor_spec(frozen)
    exact = copy.deepcopy(frozen).to("cpu", torch.float32)
    name = type(model).__name__
    verify.same(spec, lambda z, a: exact.predict(z, a)[:, -1], name)
    size = model.config.image_size
    return Imported(
        spec=spec,
        encode=frozen.encode,
        observation=((size, size, 3), torch.uint8),
        action_mean=parts.weight(model.action_mean),
        action_std=parts.weight(model.action_std),
        family=f"fastwm.{name}",
        action_block=model.config.action_block,
    )


def predictor_spec(model: WorldModel) -> PredictorSpec:
    """The predictor of a WorldModel as data, its action normalisation folded into the first Linear."""
    config = model.config
    action = parts.action_encoder(model, model.action_encoder)
    predictor: Any = model.predictor
    pred_proj: Any = model.pred_proj
    head: list[Dense]
    if isinstance(predictor, MLPPredictor):
        head = [
            parts.dense(predictor.fc1, "silu", norm=parts.layer_norm(predictor.norm1)),
            parts.dense(predictor.fc2, "silu", norm=parts.layer_norm(predictor.norm2)),
            parts.dense(predictor.fc3),
        ]
        return PredictorSpec(
            "mlp", config.embed_dim, config.action_dim, True, action, head, window=config.window
        ).validate()
    parts.expect(predictor, AdaLNPredictor, "predictor")
    if not isinstance(predictor.cond_proj, nn.Identity):
        action[-1] = fold_linear(action[-1], parts.dense(predictor.cond_proj))
    head = []
    if not isinstance(predictor.output_proj, nn.Identity):
        head.append(parts.dense(predictor.output_proj))
    head += [
        parts.dense(pred_proj.fc1, "gelu", batch_norm=pred_proj.norm),
        parts.dense(pred_proj.fc2),
    ]
    if len(head) == 3:  # a plain Linear before a Linear is one Linear
        head = [fold_linear(head[0], head[1]), head[2]]
    return PredictorSpec(
        dynamics="transformer",
        embed_dim=config.embed_dim,
        action_dim=config.action_dim,
        residual=config.residual,
        action=action,
        head=head,
        window=config.window,
        heads=config.heads,
        head_dim=config.head_dim,
        position=parts.weight(predictor.position),
        input=None if isinstance(predictor.input_proj, nn.Identity) else parts.dense(predictor.input_proj),
        layers=[parts.adaln_layer(block) for block in predictor.blocks],
        norm=parts.layer_norm(predictor.norm),
    ).validate()
