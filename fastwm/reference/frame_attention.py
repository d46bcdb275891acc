"""Attention of new frames to shared and own earlier frames in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def frame_attention(
    query: Tensor,
    own_keys: Tensor,
    own_values: Tensor,
    shared_keys: Tensor | None,
    shared_values: Tensor | None,
    frame_tokens: int,
    scale: float,
) -> Tensor:
    """[R, m N, H, D]. See `fastwm.ops.frame_attention`."""
    keys, values = own_keys, own_values
    shared = 0
    if shared_keys is not None and shared_values is not None:
        each = len(query) // len(shared_keys)  # candidates of an environment
        keys = torch.cat([shared_keys.repeat_interleave(each, 0), keys], dim=1)
        values = torch.cat([shared_values.repeat_interleave(each, 0), values], dim=1)
        shared = shared_keys.shape[1]
    new, total = query.shape[1], keys.shape[1]
    own = own_keys.shape[1]
    asks = (own - new + torch.arange(new, device=query.device)) // frame_tokens
    holds = (torch.arange(total, device=query.device) - shared) // frame_tokens  # negative: a shared frame
    scores = torch.einsum("rqhd,rkhd->rhqk", query, keys) * scale
    weights = scores.masked_fill(holds[None] > asks[:, None], -torch.inf).softmax(-1)
    return torch.einsum("rhqk,rkhd->rqhd", weights, values)
