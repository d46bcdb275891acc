"""Batch normalisation over the batch of all processes: two ranks compute what one would on the joined batch.

torch.nn.SyncBatchNorm does this on GPUs alone. Sums cross processes, forward and backward, by the differentiable all-reduce of
torch.distributed; every process has equally many rows. Parameters, buffers and their names stay those of the module.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastwm.objectives import processes


class _Together(_BatchNorm):
    """What `together` makes of nn.BatchNorm1d, 2d and 3d."""

    kind: type[_BatchNorm]  # of the module before

    def _check_input_dim(self, x: torch.Tensor) -> None:
        if x.dim() < 2:
            raise ValueError(f"x has shape {list(x.shape)}, expected at least [rows, channels]")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        over = [0, *range(2, x.dim())]
        shape = [1, -1, *[1] * (x.dim() - 2)]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = x.numel() // x.shape[1] * processes.count()
        mean = processes.total(wide.sum(over)) / count
        centred = wide - mean.view(shape)
        variance = processes.total(centred.square().sum(over)) / count
        if self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                momentum = self._momentum()
                self.running_mean.lerp_(mean.to(self.running_mean), momentum)
                unbiased = variance * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var), momentum)
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    def _momentum(self) -> float:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        return 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum


def together(module: nn.Module) -> None:
    """Let every batch normalisation in `module` see the batch of all processes."""
    for part in module.modules():
        if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)):
            kind = type(part)
            part.__class__ = _Together  # type: ignore[assignment]
            part.kind = kind  # type: ignore[assignment]


def apart(module: nn.Module) -> None:
    """Undo `together`."""
    for part in module.modules():
        if isinstance(part, _Together):
            part.__class__ = part.kind  # type: ignore[assignment]
            del part.kind
