"""Linear layers in plain PyTorch, any floating dtype."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, bfloat16: bool = False) -> Tensor:
    """x [..., K], weight [N, K], bias [N] -> [..., N]. See `fastwm.ops.linear`."""
    if not bfloat16:
        return F.linear(x, weight, bias)
    narrow = [None if t is None else t.to(torch.bfloat16) for t in (x, weight, bias)]
    return F.linear(*narrow).to(x.dtype)  # type: ignore[arg-type]
