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
from fastwm.engine.importers import parts, verify
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
    verify.finite(model)
    spec = predictor_spec(model)
    frozen: Any = copy.deepcopy(model).eval().requires_grad_(False)
    exact: Any = copy.deepcopy(frozen).to("cpu", torch.float32)

    def own(latents: Tensor, actions: Tensor) -> Tensor:
        return exact.pred_proj(exact.predictor(latents, exact.action_encoder(actions))[:, -1])

    verify.same(spec, own, "LeWM")

    def encode(pixels: Tensor) -> Tensor:
        return frozen.encode({"pixels": pixels[None, None]})["emb"][0, 0]

    return Imported(
        spec=spec,
        encode=encode,
        observation=((3, None, None), torch.float32),
        action_mean=torch.zeros(spec.action_dim, dtype=torch.float32),
        action_std=torch.ones(spec.action_dim, dtype=torch.float32),
        family="stable_worldmodel.LeWM",
    )


def predictor_spec(model: Any) -> PredictorSpec:
    """The predictor, action encoder and prediction head of a LeWM as data."""
    predictor = model.predictor
    transformer = _part(predictor, "transformer", "predictor")
    position = predictor.pos_embedding[0]  # [window, E]
    window = getattr(predictor, "num_frames", len(position))
    if window > len(position):
        raise ValueError(
            f"predictor.num_frames is {window}, but pos_embedding holds {len(position)} positions"
        )
    action = action_chain(model.action_encoder)
    condition = _part(transformer, "cond_proj", "predictor.transformer")
    if not isinstance(condition, nn.Identity):
        action[-1] = fold_linear(action[-1], parts.dense(condition, name="cond_proj"))
    head = head_chain(model.pred_proj)
    output = _part(transformer, "output_proj", "predictor.transformer")
    if not isinstance(output, nn.Identity):
        out = parts.dense(output, name="output_proj")
        head = [fold_linear(out, head[0]), *head[1:]] if head else [out]
    blocks = list(_part(transformer, "layers", "predictor.transformer"))
    if not blocks:
        raise ValueError("predictor.transformer.layers is empty: this model cannot be represented")
    layers = [block_layer(block, f"layers[{i}]") for i, block in enumerate(blocks)]
    heads = {block.attn.heads for block in blocks}
    if len(heads) != 1:
        raise ValueError(
            f"the layers have {sorted(heads)} heads, expected the same everywhere: this model cannot be represented"
        )
    (head_count,) = heads
    projection = _part(transformer, "input_proj", "predictor.transformer")
    return PredictorSpec(
        dynamics="transformer",
        embed_dim=position.shape[1],
        action_dim=model.action_encoder.patch_embed.in_channels,
        residual=False,
        action=action,
        head=head,
        window=window,
        heads=head_count,
        head_dim=layers[0].out.weight.shape[1] // head_count,
        position=parts.weight(position[:window]),
        input=None if isinstance(projection, nn.Identity) else parts.dense(projection, name="input_proj"),
        layers=layers,
        norm=parts.layer_norm(_part(transformer, "norm", "predictor.transformer"), "transformer.norm"),
    ).validate()


def action_chain(encoder: Any) -> list[Dense]:
    """Conv1d of kernel 1, then Linear, SiLU, Linear; the first two are one Linear."""
    convolution = _part(encoder, "patch_embed", "action_encoder")
    parts.expect(convolution, nn.Conv1d, "action_encoder.patch_embed")
    plain = {"kernel_size": (1,), "stride": (1,), "padding": (0,), "groups": 1}
    if any(getattr(convolution, name) != value for name, value in plain.items()):
        raise ValueError(
            "action_encoder.patch_embed is not a plain convolution of kernel 1: this model cannot be represented"
        )
    first, _, second = _sequence(
        _part(encoder, "embed", "action_encoder"), (nn.Linear, nn.SiLU, nn.Linear), "action_encoder.embed"
    )
    bias = None if convolution.bias is None else parts.weight(convolution.bias)
    smooth = Dense(parts.weight(convolution.weight[:, :, 0]), bias)
    return [fold_linear(smooth, parts.dense(first, "silu")), parts.dense(second)]


def head_chain(head: Any) -> list[Dense]:
    """pred_proj: nothing, one Linear, or Linear, norm, GELU or SiLU, Linear."""
    if isinstance(head, nn.Identity):
        return []
    if isinstance(head, nn.Linear):
        return [parts.dense(head, name="pred_proj")]
    norms, activations = (nn.BatchNorm1d, nn.LayerNorm, nn.Identity), (nn.GELU, nn.SiLU)
    first, norm, activation, second = _sequence(
        _part(head, "net", "pred_proj"), (nn.Linear, norms, activations, nn.Linear), "pred_proj.net"
    )
    return [
        parts.dense(
            first,
            "gelu" if isinstance(activation, nn.GELU) else "silu",
            norm=parts.layer_norm(norm, "pred_proj.net[1]") if isinstance(norm, nn.LayerNorm) else None,
            batch_norm=norm if isinstance(norm, nn.BatchNorm1d) else None,
        ),
        parts.dense(second),
    ]


def block_layer(block: Any, name: str) -> Layer:
    """One block conditioned by AdaLN."""
    _, modulation = _sequence(
        _part(block, "adaLN_modulation", name), (nn.SiLU, nn.Linear), f"{name}.adaLN_modulation"
    )
    for norm_name in ("norm1", "norm2"):
        norm = _part(block, norm_name, name)
        parts.expect(norm, nn.LayerNorm, f"{name}.{norm_name}")
        if norm.elementwise_affine or norm.eps != 1e-6:
            raise ValueError(
                f"{name}.{norm_name} is not a LayerNorm without affine part and with eps 1e-6: "
                "this model cannot be represented"
            )
    attention = _part(block, "attn", name)
    out = _part(attention, "to_out", f"{name}.attn")
    if isinstance(out, nn.Identity):
        merge = Dense(torch.eye(attention.to_qkv.in_features, dtype=torch.float32))
    else:
        merge = parts.dense(_sequence(out, (nn.Linear, nn.Dropout), f"{name}.attn.to_out")[0])
    kinds = (nn.LayerNorm, nn.Linear, nn.GELU, nn.Dropout, nn.Linear, nn.Dropout)
    mlp_norm, first, _, _, second, _ = _sequence(
        _part(block.mlp, "net", f"{name}.mlp"), kinds, f"{name}.mlp.net"
    )
    return Layer(
        modulation=parts.dense(modulation),
        attention_norm=parts.layer_norm(attention.norm, f"{name}.attn.norm"),
        qkv=parts.dense(attention.to_qkv, name=f"{name}.attn.to_qkv"),
        out=merge,
        mlp_norm=parts.layer_norm(mlp_norm, f"{name}.mlp.net[0]"),
        fc1=parts.dense(first, "gelu"),
        fc2=parts.dense(second),
    )


def _part(module: Any, part: str, name: str) -> Any:
    """module.part, or a ValueError that names it."""
    if not hasattr(module, part):
        raise ValueError(f"{name} ({type(module).__name__}) has no {part}: this model cannot be represented")
    return getattr(module, part)


def _sequence(module: Any, kinds: tuple[Any, ...], name: str) -> list[Any]:
    """The modules of a Sequential whose kinds are as expected; a GELU is the exact one."""
    parts.expect(module, nn.Sequential, name)
    if len(module) != len(kinds):
        raise ValueError(
            f"{name} has {len(module)} modules, expected {len(kinds)}: this model cannot be represented"
        )
    for i, (item, kind) in enumerate(zip(module, kinds, strict=True)):
        parts.expect(item, kind, f"{name}[{i}]")
        if isinstance(item, nn.GELU) and item.approximate != "none":
            raise ValueError(
                f"{name}[{i}] is a GELU with approximate={item.approximate!r}, expected the exact one: "
                "this model cannot be represented"
            )
    return list(module)
