"""A predictor as data: what every backend runs and what every importer makes.

A new model family is one importer that fills a `PredictorSpec`, not a new engine.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import Tensor

MAX_WINDOW = 1024
ACTIVATIONS = ("none", "silu", "gelu", "mish", "simnorm")


@dataclasses.dataclass
class Dense:
    """y = activation(norm(x W^T + bias)); the norm is a LayerNorm with eps 1e-5.

    simnorm: the softmax of every 8 neighbours (TD-MPC2, arXiv:2310.16828).
    """

    weight: Tensor  # [out, in]
    bias: Tensor | None = None  # [out]
    activation: Literal["none", "silu", "gelu", "mish", "simnorm"] = "none"
    norm: tuple[Tensor, Tensor] | None = None  # gain [out], bias [out]


@dataclasses.dataclass
class Layer:
    """One AdaLN-zero block (design of LeWM, arXiv:2603.19312).

    c: conditioning; (shift, scale, gate, shift', scale', gate') = modulation(silu(c)).
    x += gate * out(attention(qkv(attention_norm(LN(x) (1 + scale) + shift)))), LN without affine part, eps 1e-6;
    x += gate' * fc2(gelu(fc1(mlp_norm(LN(x) (1 + scale') + shift')))).
    """

    modulation: Dense  # W -> 6 W
    attention_norm: tuple[Tensor, Tensor]  # gain [W], bias [W], eps 1e-5
    qkv: Dense  # W -> 3 H D: all queries, all keys, all values, each by heads
    out: Dense  # H D -> W
    mlp_norm: tuple[Tensor, Tensor]
    fc1: Dense  # W -> M
    fc2: Dense  # M -> W


@dataclasses.dataclass
class PredictorSpec:
    """An action-conditioned predictor of the next latent. Actions are in environment units: an importer folds the model's
    normalisation into `action[0]`.

    Letters: E embedding, A numbers in one action block, W width, H heads, D head dim, M hidden width.

    transformer: c = action(a); x = input(z + position[place in the window]); layers; y = head(norm(x)) of the last token.
    mlp: y = head([z, action(a)]) of the last latent alone, no layers; `window` only bounds the context.
    The next latent is z + y if `residual`, else y.
    """

    dynamics: Literal["transformer", "mlp"]
    embed_dim: int  # E
    action_dim: int  # A
    residual: bool
    action: list[Dense]
    head: list[Dense]
    window: int = 1
    heads: int = 0
    head_dim: int = 0
    position: Tensor | None = None  # [window, E]
    input: Dense | None = None  # E -> W, None if W == E
    layers: list[Layer] = dataclasses.field(default_factory=list)
    norm: tuple[Tensor, Tensor] | None = None  # gain [W], bias [W], eps 1e-5

    @property
    def width(self) -> int:
        """W: the width of the transformer; 0 for mlp dynamics."""
        if self.dynamics == "mlp":
            return 0
        return self.embed_dim if self.input is None else self.input.weight.shape[0]

    @property
    def condition_dim(self) -> int:
        return self.action[-1].weight.shape[0]

    def to(self, device: torch.device) -> PredictorSpec:
        """The same with its tensors on another device."""
        return _moved(self, device)

    def validate(self) -> PredictorSpec:
        """Raise ValueError, naming the part, unless all sizes fit together and all weights are finite."""
        if not self.action:
            raise ValueError("action has no layers; expected at least one Dense")
        _check_chain("action", self.action, self.action_dim, None)
        if self.dynamics == "mlp":
            _check_chain("head", self.head, self.embed_dim + self.condition_dim, self.embed_dim)
            if not self.head:
                raise ValueError("head has no layers; mlp dynamics need at least one")
            return self
        if not 1 <= self.window <= MAX_WINDOW:
            raise ValueError(f"window is {self.window}, expected 1 to {MAX_WINDOW}")
        if not self.layers:
            raise ValueError("layers is empty; a transformer needs at least one")
        W, inner = self.width, self.heads * self.head_dim
        _check_tensor("position", self.position, (self.window, self.embed_dim))
        if self.input is not None:
            _check_chain("input", [self.input], self.embed_dim, W)
        if self.condition_dim != W:
            raise ValueError(f"action ends in {self.condition_dim} numbers, expected the width {W}")
        for i, layer in enumerate(self.layers):
            name = f"layers[{i}]"
            _check_norm(f"{name}.attention_norm", layer.attention_norm, W)
            _check_norm(f"{name}.mlp_norm", layer.mlp_norm, W)
            _check_chain(f"{name}.modulation", [layer.modulation], W, 6 * W)
            _check_chain(f"{name}.qkv", [layer.qkv], W, 3 * inner)
            _check_chain(f"{name}.out", [layer.out], inner, W)
            _check_chain(f"{name}.mlp", [layer.fc1, layer.fc2], W, W)
        if self.norm is None:
            raise ValueError("norm is None; a transformer ends in a LayerNorm")
        _check_norm("norm", self.norm, W)
        _check_chain("head", self.head, W, self.embed_dim)
        return self


def _moved(part: Any, device: torch.device) -> Any:
    if isinstance(part, Tensor):
        return part.to(device)
    if isinstance(part, (list, tuple)):
        return type(part)(_moved(item, device) for item in part)
    if dataclasses.is_dataclass(part):
        fields = dataclasses.fields(part)
        return dataclasses.replace(part, **{f.name: _moved(getattr(part, f.name), device) for f in fields})  # type: ignore[type-var]
    return part


def fold_linear(first: Dense, second: Dense) -> Dense:
    """second(first(x)) as one Dense; `first` has no norm and no activation. Computed in float64."""
    if first.norm is not None or first.activation != "none":
        raise ValueError("first has a norm or an activation; only plain linear layers can be merged")
    weight = second.weight.double() @ first.weight.double()
    bias = _bias(second).double() + second.weight.double() @ _bias(first).double()
    return dataclasses.replace(second, weight=weight.float(), bias=bias.float())


def fold_input_affine(dense: Dense, gain: Tensor, shift: Tensor) -> Dense:
    """dense(x * gain + shift) as one Dense. Computed in float64."""
    weight = dense.weight.double() * gain.double()
    bias = _bias(dense).double() + dense.weight.double() @ shift.double()
    return dataclasses.replace(dense, weight=weight.float(), bias=bias.float())


def fold_layer(layer: Layer, heads: int) -> Layer:
    """The same block with plain inner norms: their affine part is in qkv and fc1, and the queries are scaled by D^-1/2."""
    qkv = fold_input_affine(layer.qkv, *layer.attention_norm)
    inner = qkv.weight.shape[0] // 3
    scale = torch.ones(3 * inner, dtype=torch.float64)
    scale[:inner] = (inner // heads) ** -0.5
    weight, bias = qkv.weight.double() * scale[:, None], _bias(qkv).double() * scale
    one, zero = torch.ones_like(layer.mlp_norm[0]), torch.zeros_like(layer.mlp_norm[1])
    return dataclasses.replace(
        layer,
        attention_norm=(one, zero),
        qkv=Dense(weight.float(), bias.float()),
        mlp_norm=(one, zero),
        fc1=dataclasses.replace(fold_input_affine(layer.fc1, *layer.mlp_norm), activation="gelu"),
    )


def split_inputs(dense: Dense, count: int) -> tuple[Dense, Dense]:
    """Two whose sum is dense(x) before its norm and activation: of the first `count` inputs, with the bias, and of the rest."""
    first = Dense(dense.weight[:, :count].contiguous(), dense.bias)
    return first, dataclasses.replace(dense, weight=dense.weight[:, count:].contiguous(), bias=None)


def fold_batch_norm(dense: Dense, norm: torch.nn.BatchNorm1d) -> Dense:
    """norm(dense(x)) in evaluation mode as one Dense. Computed in float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError(
            "BatchNorm1d keeps no running statistics (track_running_stats=False): it cannot be folded"
        )
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach().double()
    weight = dense.weight.double() * scale[:, None]
    return dataclasses.replace(
        dense, weight=weight.float(), bias=(_bias(dense).double() * scale + shift).float()
    )


def _bias(dense: Dense) -> Tensor:
    return dense.weight.new_zeros(dense.weight.shape[0]) if dense.bias is None else dense.bias


def _check_tensor(name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is None or tuple(tensor.shape) != shape:
        raise ValueError(
            f"{name} is {None if tensor is None else tuple(tensor.shape)}, expected shape {shape}"
        )
    if tensor.dtype != torch.float32:
        raise ValueError(f"{name} is {tensor.dtype}, expected torch.float32")
    if not torch.isfinite(tensor).all():
        raise ValueError(f"{name} holds numbers that are not finite")


def _check_norm(name: str, norm: tuple[Tensor, Tensor], size: int) -> None:
    _check_tensor(f"{name} gain", norm[0], (size,))
    _check_tensor(f"{name} bias", norm[1], (size,))


def _check_chain(name: str, layers: list[Dense], inputs: int, outputs: int | None) -> None:
    for i, dense in enumerate(layers):
        where = f"{name}[{i}]" if len(layers) > 1 else name
        if dense.weight.ndim != 2 or dense.weight.shape[1] != inputs:
            raise ValueError(f"{where}.weight is {tuple(dense.weight.shape)}, expected {inputs} inputs")
        inputs = dense.weight.shape[0]
        _check_tensor(f"{where}.weight", dense.weight, tuple(dense.weight.shape))
        if dense.bias is not None:
            _check_tensor(f"{where}.bias", dense.bias, (inputs,))
        if dense.norm is not None:
            _check_norm(f"{where}.norm", dense.norm, inputs)
        if dense.activation not in ACTIVATIONS:
            raise ValueError(f"{where}.activation is {dense.activation!r}, expected one of {ACTIVATIONS}")
        if dense.activation == "simnorm" and inputs % 8:
            raise ValueError(f"{where} gives {inputs} numbers, expected a multiple of 8 for simnorm")
    if outputs is not None and inputs != outputs:
        raise ValueError(f"{name} gives {inputs} numbers, expected {outputs}")
