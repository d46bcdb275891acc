"""Random predictors as data, and their rollout in float64: the truth of the rollout tests."""

from __future__ import annotations

import dataclasses

import quantized
import torch
from torch import Tensor

from fastwm.engine.engine import Imported
from fastwm.engine.spec import Dense, Layer, PredictorSpec
from fastwm.reference.rollout import rollout


def transformer(
    seed: int,
    *,
    E: int = 24,
    A: int = 3,
    W: int | None = None,
    L: int = 2,
    H: int = 2,
    D: int = 12,
    M: int = 40,
    window: int = 3,
    residual: bool = False,
    action: list[dict] | None = None,
    head: list[dict] | None = None,
) -> PredictorSpec:
    """A transformer with every weight random. W None: no input projection, W = E.

    action, head: one dict per Dense with `out` (the last layer's is implied), `activation`, `norm`.
    """
    make = _Maker(seed)
    width = E if W is None else W
    return PredictorSpec(
        dynamics="transformer",
        embed_dim=E,
        action_dim=A,
        residual=residual,
        action=make.chain(A, width, [{"out": 17, "activation": "silu"}, {}] if action is None else action),
        head=make.chain(width, E, [{"out": M, "activation": "gelu"}, {}] if head is None else head),
        window=window,
        heads=H,
        head_dim=D,
        position=make.normal(window, E) * 0.5,
        input=None if W is None else make.dense(E, W),
        layers=[
            Layer(
                modulation=make.dense(width, 6 * width),
                attention_norm=make.norm(width),
                qkv=make.dense(width, 3 * H * D, bias=bool(i % 2)),
                out=make.dense(H * D, width),
                mlp_norm=make.norm(width),
                fc1=make.dense(width, M, "gelu"),
                fc2=make.dense(M, width),
            )
            for i in range(L)
        ],
        norm=make.norm(width),
    ).validate()


def mlp(
    seed: int,
    *,
    E: int = 24,
    A: int = 3,
    window: int = 3,
    residual: bool = True,
    action: list[dict] | None = None,
    head: list[dict] | None = None,
) -> PredictorSpec:
    """MLP dynamics with every weight random."""
    make = _Maker(seed)
    action_layers = make.chain(A, E, [{"out": 17, "activation": "silu"}, {}] if action is None else action)
    hidden = [
        {"out": 40, "activation": "silu", "norm": True},
        {"out": 33, "activation": "silu", "norm": True},
        {},
    ]
    return PredictorSpec(
        dynamics="mlp",
        embed_dim=E,
        action_dim=A,
        residual=residual,
        action=action_layers,
        head=make.chain(E + action_layers[-1].weight.shape[0], E, hidden if head is None else head),
        window=window,
    ).validate()


def imported(spec: PredictorSpec) -> Imported:
    """What `fastwm.compile` takes, with observations that are latents already."""
    return Imported(
        spec=spec,
        encode=lambda frame: frame,
        observation=((spec.embed_dim,), torch.float32),
        action_mean=torch.zeros(spec.action_dim),
        action_std=torch.ones(spec.action_dim),
        family="tests.random",
    )


def inputs(
    spec: PredictorSpec, seed: int, *, B: int, S: int, T: int, K: int
) -> tuple[Tensor, Tensor, Tensor]:
    """context [B, K, E], actions [B, S, T, A], past_actions [B, K-1, A]"""
    make = _Maker(seed)
    E, A = spec.embed_dim, spec.action_dim
    return make.normal(B, K, E), make.normal(B, S, T, A), make.normal(B, K - 1, A)


def truth(spec: PredictorSpec, context: Tensor, actions: Tensor, past_actions: Tensor) -> Tensor:
    """The rollout in float64: [B, S, T, E]"""
    return rollout(cast(spec, torch.float64), context.double(), actions.double(), past_actions.double())


def torch_rollout(spec: PredictorSpec, dtype: str, *arguments: Tensor) -> Tensor:
    """The rollout as PyTorch does it in this dtype (bfloat16: autocast; int8: emulated): [B, S, T, E]"""
    if dtype == "int8":
        return quantized.rollout(spec, *arguments)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        return rollout(spec, *arguments).float()


def cast(part, dtype: torch.dtype):  # type: ignore[no-untyped-def]
    """A spec, or any part of one, with its tensors in another dtype."""
    if isinstance(part, Tensor):
        return part.to(dtype)
    if isinstance(part, (list, tuple)):
        return type(part)(cast(item, dtype) for item in part)
    if dataclasses.is_dataclass(part):
        fields = {field.name: cast(getattr(part, field.name), dtype) for field in dataclasses.fields(part)}
        return dataclasses.replace(part, **fields)
    return part


class _Maker:
    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def norm(self, size: int) -> tuple[Tensor, Tensor]:
        return 1 + 0.3 * self.normal(size), 0.3 * self.normal(size)

    def dense(
        self, inputs: int, outputs: int, activation: str = "none", *, norm: bool = False, bias: bool = True
    ) -> Dense:
        return Dense(
            self.normal(outputs, inputs) / inputs**0.5,
            0.3 * self.normal(outputs) if bias else None,
            activation,
            self.norm(outputs) if norm else None,
        )

    def chain(self, inputs: int, outputs: int, layers: list[dict]) -> list[Dense]:
        made = []
        for i, layer in enumerate(layers):
            out = outputs if i + 1 == len(layers) else layer["out"]
            made.append(
                self.dense(inputs, out, layer.get("activation", "none"), norm=layer.get("norm", False))
            )
            inputs = out
        return made
