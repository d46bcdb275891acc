"""The rollout in plain PyTorch, from a `PredictorSpec`: every window recomputed, nothing shared. Oracle and fallback."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastwm.engine.spec import Dense, Layer, PredictorSpec


def rollout(spec: PredictorSpec, context: Tensor, actions: Tensor, past_actions: Tensor) -> Tensor:
    """context [B, K, E], actions [B, S, T, A], past_actions [B, K-1, A] -> latents [B, S, T, E]."""
    B, S, T, _ = actions.shape
    K = context.shape[1]
    every_action = torch.cat([past_actions[:, None].expand(B, S, K - 1, -1), actions], dim=2).flatten(0, 1)
    condition = chain(spec.action, every_action)  # [B S, K-1+T, C]
    latents = list(context[:, None].expand(B, S, K, -1).flatten(0, 1).unbind(1))
    for t in range(T):
        start = max(0, K + t - spec.window)
        window = torch.stack(latents[start:], dim=1)
        latents.append(predict(spec, window, condition[:, start : K + t]))
    return torch.stack(latents[K:], dim=1).unflatten(0, (B, S))


def predict(spec: PredictorSpec, latents: Tensor, condition: Tensor) -> Tensor:
    """The latent after the last of a window: latents [N, n, E], condition [N, n, C] -> [N, E]."""
    last = latents[:, -1]
    if spec.dynamics == "mlp":
        change = chain(spec.head, torch.cat([last, condition[:, -1]], dim=-1))
        return last + change if spec.residual else change
    assert spec.position is not None
    assert spec.norm is not None
    x = latents + spec.position[: latents.shape[1]]
    if spec.input is not None:
        x = chain([spec.input], x)
    for layer in spec.layers:
        x = block(layer, x, condition, spec.heads)
    change = chain(spec.head, F.layer_norm(x[:, -1], (spec.width,), *spec.norm, eps=1e-5))
    return last + change if spec.residual else change


def block(layer: Layer, x: Tensor, condition: Tensor, heads: int) -> Tensor:
    """One AdaLN-zero block: x [N, n, W], condition [N, n, W] -> [N, n, W]."""
    width = (x.shape[-1],)
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = chain([layer.modulation], F.silu(condition)).chunk(
        6, -1
    )
    h = F.layer_norm(x, width, eps=1e-6) * (1 + scale) + shift
    h = F.layer_norm(h, width, *layer.attention_norm, eps=1e-5)
    q, k, v = chain([layer.qkv], h).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    x = x + gate * chain([layer.out], h)
    h = F.layer_norm(x, width, eps=1e-6) * (1 + mlp_scale) + mlp_shift
    h = F.layer_norm(h, width, *layer.mlp_norm, eps=1e-5)
    return x + mlp_gate * chain([layer.fc1, layer.fc2], h)


def chain(layers: list[Dense], x: Tensor) -> Tensor:
    """Dense layers one after another over the last axis."""
    for dense in layers:
        x = F.linear(x, dense.weight, dense.bias)
        if dense.norm is not None:
            x = F.layer_norm(x, x.shape[-1:], *dense.norm, eps=1e-5)
        x = _ACTIVATIONS[dense.activation](x)
    return x


def _simplicial_norm(x: Tensor) -> Tensor:
    return x.unflatten(-1, (-1, 8)).softmax(-1).flatten(-2)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "silu": F.silu,
    "gelu": F.gelu,
    "mish": F.mish,
    "simnorm": _simplicial_norm,
}
