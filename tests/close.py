"""How close is close: a kernel may err twice as much as PyTorch in the same dtype, measured against
float64."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close(
    name: str, kernel: Tensor, same_dtype_torch: Tensor, truth: Tensor, *, tiny: float | None = None
) -> None:
    """Assert max|kernel - truth| <= 2 max|same_dtype_torch - truth| + tiny; a failure names the worst
    coordinate.

    tiny: by default one rounding of the largest number in `truth`, which is float64. NaN and infinity must
    stand at the same places with the same sign.
    """
    assert truth.dtype == torch.float64, "the truth is computed in float64"
    assert kernel.shape == truth.shape == same_dtype_torch.shape, (
        f"{name}: {kernel.shape} is not {truth.shape}"
    )
    got, finite = kernel.double(), truth.isfinite()
    odd = ~finite & ~((got == truth) | (got.isnan() & truth.isnan()))
    odd |= finite & ~got.isfinite()
    assert not odd.any(), f"{name}: {got[odd][0]} at {_first(odd)}, expected {truth[odd][0]}"
    if not finite.any():
        return
    error = torch.where(finite, (got - truth).abs(), 0.0)
    allowed = torch.where(finite, (same_dtype_torch.double() - truth).abs(), 0.0).max()
    if tiny is None:
        tiny = torch.finfo(kernel.dtype).eps * float(truth[finite].abs().max())
    worst = int(error.argmax())
    assert error.max() <= 2 * allowed + tiny, (
        f"{name}: off by {error.max():.3g} at {_coordinate(worst, truth)}: {got.flatten()[worst]:.9g}, expected "
        f"{truth.flatten()[worst]:.9g}; PyTorch's own error is {allowed:.3g}, tiny {tiny:.3g}"
    )


def _coordinate(index: int, like: Tensor) -> list[int]:
    return [int(i) for i in torch.unravel_index(torch.tensor(index), like.shape)]


def _first(mask: Tensor) -> list[int]:
    return mask.nonzero()[0].tolist()
