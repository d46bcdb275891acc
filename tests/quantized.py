"""The int8 rollout emulated in float32 PyTorch: what an integer kernel computes, but for the rounding of its sums.

Every Linear of the predictor but the action chain multiplies 8-bit numbers; what lies between them is float32. Weights have a
scale per output channel, after the affine part of a block's inner LayerNorms was folded into them; inputs get one per row at
run time. Where the second Linear of a plain MLP reads GELU, SiLU or Mish, both have a scale per BLOCK of inputs, and the
inputs are unsigned, from the function's least value up; where a Linear reads attention's heads, both have one per group.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from fastwm.engine.spec import Dense, Layer, PredictorSpec, fold_input_affine
from fastwm.reference.rollout import chain

BLOCK = (
    256  # inputs that share a scale; of attention as many whole heads, padded to panels, as fit, at least one
)
PANEL = 32
LEAST = {"gelu": -0.17, "silu": -0.2785, "mish": -0.3089}
TINY = 1e-30  # keeps 0 / 0 away


def rollout(spec: PredictorSpec, context: Tensor, actions: Tensor, past_actions: Tensor) -> Tensor:
    """context [B, K, E], actions [B, S, T, A], past_actions [B, K-1, A] -> latents [B, S, T, E], all float32."""
    spec = quantise_weights(spec)
    B, S, T, _ = actions.shape
    K = context.shape[1]
    every_action = torch.cat([past_actions[:, None].expand(B, S, K - 1, -1), actions], dim=2).flatten(0, 1)
    condition = chain(spec.action, every_action)  # [B S, K-1+T, C]
    latents = list(context[:, None].expand(B, S, K, -1).flatten(0, 1).unbind(1))
    for t in range(T):
        start = max(0, K + t - spec.window)
        latents.append(predict(spec, torch.stack(latents[start:], dim=1), condition[:, start : K + t]))
    return torch.stack(latents[K:], dim=1).unflatten(0, (B, S))


def quantise_weights(spec: PredictorSpec) -> PredictorSpec:
    """The spec with inner LayerNorms folded and every weight rounded to its 8-bit value; doing it again changes nothing."""
    layers = []
    for layer in spec.layers:
        E = len(layer.attention_norm[0])
        plain = (torch.ones(E), torch.zeros(E))
        fc1, fc2 = _round_weights([fold_input_affine(layer.fc1, *layer.mlp_norm), layer.fc2])
        (qkv,) = _round_weights([fold_input_affine(layer.qkv, *layer.attention_norm)])
        (modulation,) = _round_weights([layer.modulation])
        out = dataclasses.replace(layer.out, weight=symmetric(layer.out.weight, _group(spec.head_dim)))
        layers.append(Layer(modulation, plain, qkv, out, plain, fc1, fc2))
    into = None if spec.input is None else _round_weights([spec.input])[0]
    head = _round_weights(spec.head)
    if spec.dynamics == "mlp":  # latents and conditioning each have scales of their own
        parts = spec.head[0].weight.split([spec.embed_dim, spec.condition_dim], dim=1)
        head[0] = dataclasses.replace(head[0], weight=torch.cat([symmetric(part) for part in parts], dim=1))
    return dataclasses.replace(spec, head=head, input=into, layers=layers)


def predict(spec: PredictorSpec, latents: Tensor, condition: Tensor) -> Tensor:
    """As fastwm.reference.rollout.predict, with rounded inputs: latents [N, n, E], condition [N, n, C] -> [N, E]."""
    last = latents[:, -1]
    if spec.dynamics == "mlp":
        change = _chain(spec.head, torch.cat([symmetric(last), symmetric(condition[:, -1])], dim=-1))
        return last + change if spec.residual else change
    assert spec.position is not None
    assert spec.norm is not None
    x = latents + spec.position[: latents.shape[1]]
    if spec.input is not None:
        x = _chain([spec.input], symmetric(x))
    for layer in spec.layers:
        x = _block(layer, x, condition, spec.heads, spec.head_dim)
    change = _chain(spec.head, symmetric(F.layer_norm(x[:, -1], (spec.width,), *spec.norm, eps=1e-5)))
    return last + change if spec.residual else change


def symmetric(x: Tensor, block: int | None = None) -> Tensor:
    """The nearest of 255 values, -127 .. 127 scales, for every row and block of the last axis."""

    def nearest(part: Tensor) -> Tensor:
        scale = part.abs().amax(-1, keepdim=True).clamp_min(TINY) / 127
        return (part / scale).round() * scale

    return torch.cat([nearest(part) for part in x.split(block or x.shape[-1], dim=-1)], dim=-1)


def unsigned(x: Tensor, least: float) -> Tensor:
    """The nearest of 256 values from `least` to the maximum of every row and BLOCK of the last axis."""

    def nearest(part: Tensor) -> Tensor:
        scale = (part.amax(-1, keepdim=True) - least).clamp_min(TINY) / 255
        return ((part - least) / scale).round() * scale + least

    return torch.cat([nearest(part) for part in x.split(BLOCK, dim=-1)], dim=-1)


def _block(layer: Layer, x: Tensor, condition: Tensor, heads: int, head_dim: int) -> Tensor:
    """As fastwm.reference.rollout.block: x [N, n, W], condition [N, n, W] -> [N, n, W]."""
    width = (x.shape[-1],)
    modulation = _chain([layer.modulation], symmetric(F.silu(condition)))
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation.chunk(6, -1)
    h = F.layer_norm(x, width, eps=1e-6) * (1 + scale) + shift
    h = symmetric(F.layer_norm(h, width, eps=1e-5))
    q, k, v = _chain([layer.qkv], h).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    x = x + gate * _chain([layer.out], symmetric(h, _group(head_dim)))
    h = F.layer_norm(x, width, eps=1e-6) * (1 + mlp_scale) + mlp_shift
    h = symmetric(F.layer_norm(h, width, eps=1e-5))
    return x + mlp_gate * _chain([layer.fc1, layer.fc2], h)


def _chain(layers: list[Dense], x: Tensor) -> Tensor:
    """Dense layers one after another; x and the weights are rounded already."""
    for i, dense in enumerate(layers):
        x = chain([dense], x)
        if i + 1 < len(layers):
            x = unsigned(x, LEAST[dense.activation]) if _fused(layers, i) else symmetric(x)
    return x


def _round_weights(layers: list[Dense]) -> list[Dense]:
    blocks = [BLOCK if i and _fused(layers, i - 1) else None for i in range(len(layers))]
    return [
        dataclasses.replace(dense, weight=symmetric(dense.weight, block))
        for dense, block in zip(layers, blocks, strict=True)
    ]


def _fused(layers: list[Dense], i: int) -> bool:
    """Whether layers i and i + 1, the last two, are a plain MLP, whose hidden row no kernel need hold whole."""
    last = layers[-1]
    plain = layers[i].norm is None and last.norm is None and last.activation == "none"
    return i == len(layers) - 2 and plain and layers[i].activation in LEAST


def _group(head_dim: int) -> int:
    """Attention outputs that share a scale."""
    padded = -(-head_dim // PANEL) * PANEL
    return max(1, BLOCK // padded) * head_dim
