"""Additions and multiplications of a rollout when nothing is computed twice: what efficiency is a share of."""

from __future__ import annotations

from fastwm.engine.spec import PredictorSpec


def count_operations(spec: PredictorSpec, samples: int, horizon: int, frames: int) -> int:
    """Of one environment: what the engine's savings leave (csrc/cpu/rollout.cpp); norms, softmax, activations not counted."""
    return samples * (_mlp(spec, horizon) if spec.dynamics == "mlp" else _transformer(spec, horizon, frames))


def _mlp(spec: PredictorSpec, horizon: int) -> int:
    """One candidate. In the first step all candidates share the latent, and so its product with the first weights."""
    weights = sum(dense.weight.numel() for dense in (*spec.action, *spec.head))
    return 2 * (horizon * weights - spec.embed_dim * spec.head[0].weight.shape[0])


def _transformer(spec: PredictorSpec, horizon: int, frames: int) -> int:
    """One candidate. Tokens of the context are shared by all candidates and not counted; keys and values are kept while the
    window grows; in the last layer one token asks."""
    layer = spec.layers[0]
    inner, hidden, W, L = spec.heads * spec.head_dim, layer.fc1.weight.shape[0], spec.width, len(spec.layers)
    keys_values, after = 4 * W * inner, 2 * W * inner + 4 * W * hidden  # after attention: out, fc1, fc2
    query = 2 * W * inner
    conditioning = 2 * sum(dense.weight.numel() for dense in spec.action)
    modulation = L * 12 * W * W
    head = 2 * sum(dense.weight.numel() for dense in spec.head)
    total = horizon * (conditioning + modulation + head)
    for t in range(horizon):
        seen = min(frames + t, spec.window)
        grows = frames + t <= spec.window
        shared = max(0, frames - 1 - max(0, frames + t - spec.window))
        tokens = 1 if grows else seen - shared
        for i in range(L):
            asking = tokens if i + 1 < L else 1
            total += tokens * keys_values + asking * (after + (query if seen > 1 else 0))
            total += sum(4 * inner * (seen - asked) for asked in range(asking)) if seen > 1 else 0
        if spec.input is not None:
            total += tokens * spec.input.weight.numel() * 2
    return total
