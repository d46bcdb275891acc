"""torch modules -> the parts of a PredictorSpec, refusing what they cannot stand for."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastwm.engine.spec import Dense, Layer, fold_batch_norm, fold_input_affine
from fastwm.models.pixel_model import PixelModel


def expect(module: nn.Module, kind: type | tuple[type, ...], name: str) -> None:
    """ValueError unless `module` is exactly of a known kind."""
    if not isinstance(module, kind):
        known = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(
            f"{name} is {type(module).__name__}, expected {known}: this model cannot be represented"
        )


def weight(tensor: Tensor) -> Tensor:
    """A float32 copy on the CPU."""
    return tensor.detach().to("cpu", torch.float32, copy=True)


def dense(
    linear: nn.Module,
    activation: Literal["none", "silu", "gelu"] = "none",
    *,
    norm: tuple[Tensor, Tensor] | None = None,
    batch_norm: nn.BatchNorm1d | None = None,
    name: str = "layer",
) -> Dense:
    """A Linear, with the BatchNorm1d after it folded in, or the LayerNorm after it kept."""
    expect(linear, nn.Linear, name)
    assert isinstance(linear, nn.Linear)
    out = Dense(weight(linear.weight), None if linear.bias is None else weight(linear.bias), activation, norm)
    if batch_norm is not None:
        expect(batch_norm, nn.BatchNorm1d, f"{name}'s norm")
        out = fold_batch_norm(out, batch_norm)
    return out


def layer_norm(module: nn.Module, name: str = "norm", eps: float = 1e-5) -> tuple[Tensor, Tensor]:
    """Gain and bias of an affine LayerNorm over the last axis."""
    expect(module, nn.LayerNorm, name)
    assert isinstance(module, nn.LayerNorm)
    if module.eps != eps:
        raise ValueError(f"{name} has eps {module.eps}, expected {eps}: this model cannot be represented")
    if len(module.normalized_shape) != 1:
        raise ValueError(f"{name} normalises {len(module.normalized_shape)} axes, expected the last alone")
    size = module.normalized_shape[0]
    gain = torch.ones(size, dtype=torch.float32) if module.weight is None else weight(module.weight)
    bias = torch.zeros(size, dtype=torch.float32) if module.bias is None else weight(module.bias)
    return gain, bias


def action_encoder(model: PixelModel, encoder: Any) -> list[Dense]:
    """Linear, SiLU, Linear of actions in environment units: their normalisation is folded into the first."""
    first, activation, second = encoder
    expect(activation, nn.SiLU, "action_encoder[1]")
    mean, std = model.action_mean.double().cpu(), model.action_std.double().cpu()
    return [fold_input_affine(dense(first, "silu"), 1 / std, -mean / std), dense(second)]


def adaln_layer(block: Any) -> Layer:
    """A block of fastwm.models.predictor, or one with its parts."""
    return Layer(
        modulation=dense(block.modulation[1]),
        attention_norm=layer_norm(block.attention.norm),
        qkv=dense(block.attention.qkv),
        out=dense(block.attention.out),
        mlp_norm=layer_norm(block.mlp.norm),
        fc1=dense(block.mlp.fc1, "gelu"),
        fc2=dense(block.mlp.fc2),
    )
