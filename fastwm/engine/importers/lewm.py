"""stable-worldmodel's LeWM (PyPI release and main branch) -> spec and encoder.

Both generations have the same modules; they differ in how `rollout` is called. The module is recognised by its parts, not by
its class, so that this file needs no stable-worldmodel.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fastwm.engine.engine import Imported
from fastwm.engine.importers import parts
from fastwm.engine.spec import Dense, Layer, PredictorSpec, fold_linear

_PARTS = ("encoder", "predictor", "action_encoder", "projector", "pred_proj")


def is_lewm(model: nn.Module) -> bool:
    """Whether the module has LeWM's parts."""
    return all(isinstance(getattr(model, name, None), nn.Module) for name in _PARTS) and hasattr(
        model.predictor, "pos_embedding"
    )


def import_lewm(model: Any) -> Imported:
    """A copy of the model's encoder, and its predictor as data. Actions are what the model was trained on (normalised).

    Raises ValueError naming the part that cannot be represented.
    """
    spec = predictor_spec(model)
    frozen: Any = copy.deepcopy(model).eval().requires_grad_(False)

    def encode(pixels: Tensor) -> Tensor:
        return frozen.encode({"pixels": pixels[None, None]})["emb"][0, 0]

    return Imported(
        spec=spec,
        encode=encode,
        observation=((3, None, None), torch.float32),
        action_mean=torch.zeros(spec.action_dim),
        action_std=torch.ones(spec.action_dim),
        family="stable_worldmodel.LeWM",
    )


def predictor_spec(model: Any) -> PredictorSpec:
    """The predictor, action encoder and prediction head of a LeWM as data."""
    predictor, transformer = model.predictor, model.predictor.transformer
    position = predictor.pos_embedding[0]
    action = action_chain(model.action_encoder)
    if not isinstance(transformer.cond_proj, nn.Identity):
        action[-1] = fold_linear(action[-1], parts.dense(transformer.cond_proj, name="cond_proj"))
    head = head_chain(model.pred_proj)
    if not isinstance(transformer.output_proj, nn.Identity):
        out = parts.dense(transformer.output_proj, name="output_proj")
        head = [fold_linear(out, head[0]), *head[1:]] if head else [out]
    layers = [block_layer(block, f"layers[{i}]") for i, block in enumerate(transformer.layers)]
    attention = transformer.layers[0].attn
    inner = layers[0].out.weight.shape[1]
    return PredictorSpec(
        dynamics="transformer",
        embed_dim=position.shape[1],
        action_dim=model.action_encoder.patch_embed.in_channels,
        residual=False,
        action=action,
        head=head,
        window=position.shape[0],
        heads=attention.heads,
        head_dim=inner // attention.heads,
        position=parts.weight(position),
        input=None
        if isinstance(transformer.input_proj, nn.Identity)
        else parts.dense(transformer.input_proj, name="input_proj"),
        layers=layers,
        norm=parts.layer_norm(transformer.norm, "transformer.norm"),
    ).validate()


def action_chain(encoder: Any) -> list[Dense]:
    """Conv1d of kernel 1, then Linear, SiLU, Linear; the first two are one Linear."""
    convolution = encoder.patch_embed
    parts.expect(convolution, nn.Conv1d, "action_encoder.patch_embed")
    if (
        convolution.kernel_size != (1,)
        or convolution.stride != (1,)
        or convolution.groups != 1
        or convolution.padding != (0,)
    ):
        raise ValueError(
            "action_encoder.patch_embed is not a plain convolution of kernel 1: this model cannot be represented"
        )
    first, activation, second = encoder.embed
    parts.expect(activation, nn.SiLU, "action_encoder.embed[1]")
    bias = None if convolution.bias is None else parts.weight(convolution.bias)
    smooth = Dense(parts.weight(convolution.weight[:, :, 0]), bias)
    return [
        fold_linear(smooth, parts.dense(first, "silu", name="action_encoder.embed[0]")),
        parts.dense(second, name="action_encoder.embed[2]"),
    ]


def head_chain(head: Any) -> list[Dense]:
    """pred_proj: nothing, or Linear, norm, GELU (or SiLU), Linear."""
    if isinstance(head, nn.Identity):
        return []
    if not isinstance(getattr(head, "net", None), nn.Sequential) or len(head.net) != 4:
        raise ValueError(
            "pred_proj is not Linear, norm, activation, Linear: this model cannot be represented"
        )
    first, norm, activation, second = head.net
    parts.expect(activation, (nn.GELU, nn.SiLU), "pred_proj's activation")
    if isinstance(activation, nn.GELU) and activation.approximate != "none":
        raise ValueError(f"pred_proj's GELU is {activation.approximate!r}, expected the exact one")
    parts.expect(norm, (nn.BatchNorm1d, nn.LayerNorm, nn.Identity), "pred_proj's norm")
    return [
        parts.dense(
            first,
            "gelu" if isinstance(activation, nn.GELU) else "silu",
            norm=parts.layer_norm(norm, "pred_proj's norm") if isinstance(norm, nn.LayerNorm) else None,
            batch_norm=norm if isinstance(norm, nn.BatchNorm1d) else None,
            name="pred_proj.net[0]",
        ),
        parts.dense(second, name="pred_proj.net[3]"),
    ]


def block_layer(block: Any, name: str) -> Layer:
    """One ConditionalBlock."""
    if not hasattr(block, "adaLN_modulation"):
        raise ValueError(
            f"{name} has no adaLN_modulation: only blocks conditioned by AdaLN can be represented"
        )
    for norm_name in ("norm1", "norm2"):
        norm = getattr(block, norm_name)
        parts.expect(norm, nn.LayerNorm, f"{name}.{norm_name}")
        if norm.elementwise_affine or norm.eps != 1e-6:
            raise ValueError(
                f"{name}.{norm_name} is not a plain LayerNorm with eps 1e-6: this model cannot be represented"
            )
    if isinstance(block.attn.to_out, nn.Identity):
        width = block.attn.to_qkv.in_features
        out = Dense(torch.eye(width))
    else:
        out = parts.dense(block.attn.to_out[0], name=f"{name}.attn.to_out")
    norm, first, activation, _, second, _ = block.mlp.net
    parts.expect(activation, nn.GELU, f"{name}.mlp's activation")
    return Layer(
        modulation=parts.dense(block.adaLN_modulation[1], name=f"{name}.adaLN_modulation"),
        attention_norm=parts.layer_norm(block.attn.norm, f"{name}.attn.norm"),
        qkv=parts.dense(block.attn.to_qkv, name=f"{name}.attn.to_qkv"),
        out=out,
        mlp_norm=parts.layer_norm(norm, f"{name}.mlp.norm"),
        fc1=parts.dense(first, "gelu", name=f"{name}.mlp.fc1"),
        fc2=parts.dense(second, name=f"{name}.mlp.fc2"),
    )
