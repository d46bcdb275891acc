"""Flow matching: noise becomes data along straight lines (arXiv:2210.02747)."""

from __future__ import annotations

import torch
from torch import Tensor


def flow_target(data: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """Where samples are at flow time [B] and the velocity there: lerp(noise, data, t) and data - noise, [B, ...] each.

    Time 0 is noise, 1 is data. Raises ValueError where shapes do not fit.
    """
    if data.shape != noise.shape or time.shape != data.shape[:1]:
        shapes = f"{list(data.shape)}, {list(noise.shape)} and {list(time.shape)}"
        raise ValueError(f"data, noise and time have shapes {shapes}; expected [B, ...], the same, and [B]")
    return torch.lerp(noise, data, time.view(-1, *[1] * (data.ndim - 1))), data - noise
