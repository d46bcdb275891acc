"""Attention in plain PyTorch: all tokens of a window to all that they see."""

from __future__ import annotations

import torch
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, frame_tokens: int, scale: float) -> Tensor:
    """q, k, v [R, n, H, D] -> [R, n, H, D]. See `fastwm.ops.attention`."""
    scores = torch.einsum("rqhd,rkhd->rhqk", q, k) * scale
    seen = sees(q.shape[1], frame_tokens, q.device)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("rhqk,rkhd->rqhd", weights, v)


def sees(n: int, frame_tokens: int, device: torch.device) -> Tensor:
    """bool [n, n]: which token (column) a token (row) sees: those of its own frame and of frames before; 0: all."""
    frame = torch.arange(n, device=device) // (frame_tokens or n)
    return frame[:, None] >= frame[None]


def attention_backward(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, frame_tokens: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, from that of the result, which autocast may have made narrower than they are."""
    gradient = gradient.to(v.dtype)
    scores = torch.einsum("rqhd,rkhd->rhqk", q, k) * scale
    weights = scores.masked_fill(~sees(q.shape[1], frame_tokens, q.device), -torch.inf).softmax(-1)
    dv = torch.einsum("rhqk,rqhd->rkhd", weights, gradient)
    dweights = torch.einsum("rqhd,rkhd->rhqk", gradient, v)
    dscores = weights * (dweights - (weights * dweights).sum(-1, keepdim=True)) * scale
    return torch.einsum("rhqk,rkhd->rqhd", dscores, k), torch.einsum("rhqk,rqhd->rkhd", dscores, q), dv
