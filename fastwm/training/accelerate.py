"""Train a world model on fastwm's kernels: the same modules and parameters, another way through them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastwm import ops
from fastwm.models.predictor import AdaLNBlock, CausalAttention, FeedForward
from fastwm.models.wam.trunk import Stream
from fastwm.objectives import SIGReg


def accelerate(model: nn.Module) -> nn.Module:
    """`model`, whose layers from now on compute by `fastwm.ops`: the same numbers within rounding, the same state_dict.

    model: any module with linear layers, AdaLN blocks or SIGReg in it. Changed in place, once: `nn.Linear`s become
    `FastLinear`s, and AdaLN blocks `FastAdaLNBlock`s. Training and evaluation mode, dropout and autocast are respected;
    attention with dropout of its weights stays PyTorch's, which alone draws it, and so do the norms and the attention of a
    LatentWAM's streams, whose tokens turn with time. SIGReg runs on the kernels as it is.
    Raises TypeError where there is nothing that fastwm has kernels for.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {type(model).__name__}, expected a torch.nn.Module")
    if not use_kernels(model):
        kind = type(model).__name__
        raise TypeError(
            f"model is a {kind} without Linear, AdaLNBlock or SIGReg, expected a module that holds one"
        )
    return model


def use_kernels(model: nn.Module) -> bool:
    """`accelerate`, for any model: whether there was anything in it that has kernels."""
    own = {block for stream in model.modules() if isinstance(stream, Stream) for block in stream.blocks}
    blocks = [module for module in model.modules() if isinstance(module, AdaLNBlock) and module not in own]
    linears = [module for module in model.modules() if type(module) in (nn.Linear, FastLinear)]
    for block in blocks:
        block.__class__ = FastAdaLNBlock
    for layer in linears:
        layer.__class__ = FastLinear
    return bool(blocks or linears or any(isinstance(module, SIGReg) for module in model.modules()))


class FastLinear(nn.Linear):
    """The same layer by `fastwm.ops.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] -> [..., N]"""
        return ops.linear(x, self.weight, self.bias)


class FastAdaLNBlock(AdaLNBlock):
    """The same block, its norms, modulation and attention by `fastwm.ops`."""

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """x [B, T, width], c [B, T, width] -> [B, T, width]"""
        made = _linear(cast(nn.Linear, self.modulation[1]), self.modulation[0](c))
        shift1, scale1, gate1, shift2, scale2, gate2 = made.chunk(6, dim=-1)
        x = _half(self.norm1, self.attention.norm, _attend(self.attention), x, shift1, scale1, gate1)
        return _half(self.norm2, self.mlp.norm, _feed(self.mlp), x, shift2, scale2, gate2)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer of x, in bfloat16 under autocast to that, the result in the weights' dtype all the same: no copies."""
    dtype = layer.weight.dtype
    narrow = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16
    if x.device.type == "cpu" and dtype == torch.float32 and narrow:
        return ops.linear(x.to(dtype), layer.weight, layer.bias, bfloat16=True)
    return layer(x)


def _half(
    norm: nn.LayerNorm,
    affine: nn.LayerNorm,
    inner: Callable[[Tensor], Tensor],
    x: Tensor,
    shift: Tensor,
    scale: Tensor,
    gate: Tensor,
) -> Tensor:
    """x + gate inner(affine(norm(x) (1 + scale) + shift)), the norms in their weights' dtype, under autocast too."""
    dtype = affine.weight.dtype
    y = ops.adaln(
        x.to(dtype),
        shift.to(dtype),
        scale.to(dtype),
        affine.weight,
        affine.bias,
        eps=norm.eps,
        affine_eps=affine.eps,
    )
    return torch.addcmul(x, gate.to(x.dtype), inner(y).to(x.dtype))


def _attend(attention: CausalAttention) -> Callable[[Tensor], Tensor]:
    def attend(y: Tensor) -> Tensor:
        """`CausalAttention.forward` after its norm. Without dropout the weights and sums are float32, under autocast too."""
        q, k, v = _linear(attention.qkv, y).unflatten(-1, (3, attention.heads, -1)).unbind(2)  # [B, T, H, D]
        if attention.training and attention.dropout > 0:
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            found = F.scaled_dot_product_attention(q, k, v, dropout_p=attention.dropout, is_causal=True)
            found = found.transpose(1, 2)
        else:
            found = ops.attention(*(t.to(torch.promote_types(t.dtype, torch.float32)) for t in (q, k, v)))
        return F.dropout(
            _linear(attention.out, found.flatten(2).to(y.dtype)), attention.dropout, attention.training
        )

    return attend


def _feed(mlp: FeedForward) -> Callable[[Tensor], Tensor]:
    def feed(y: Tensor) -> Tensor:
        """`FeedForward.forward` after its norm."""
        hidden = F.dropout(F.gelu(_linear(mlp.fc1, y)), mlp.dropout, mlp.training)
        return F.dropout(_linear(mlp.fc2, hidden), mlp.dropout, mlp.training)

    return feed
