"""What every model that sees pixels and takes actions does: latents of pixels, and actions in units of the training's."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn


class Sizes(Protocol):
    """The part of a configuration that is read here."""

    @property
    def image_size(self) -> int: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def action_dim(self) -> int: ...


class PixelModel(nn.Module):
    """An encoder with its projector, and the statistics of the training actions, which are saved with the model.

    Actions of public methods are in environment units. Letters: E embedding, A numbers in one action block.
    """

    config: Sizes
    encoder: nn.Module
    projector: nn.Module
    action_mean: torch.Tensor  # [A]
    action_std: torch.Tensor  # [A]

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels uint8 [..., size, size, 3] -> latents [..., E]"""
        size = self.config.image_size
        images = (
            self.check_pixels(pixels).reshape(-1, size, size, 3).permute(0, 3, 1, 2)
        )  # channels_last, no copy
        kind, dtype = pixels.device.type, self.action_mean.dtype
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        images = images.to(dtype).sub_(127.5).div_(127.5)  # the first step is exact in bfloat16, too
        latents = self.projector(self.encoder(images)).to(self.action_mean.dtype)
        return latents.view(*pixels.shape[:-3], self.config.embed_dim)

    def check_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """`pixels`; TypeError or ValueError unless they are uint8 [..., size, size, 3]."""
        size = self.config.image_size
        self._check_device("pixels", pixels)
        if pixels.dtype != torch.uint8:
            raise TypeError(f"pixels has dtype {pixels.dtype}; expected torch.uint8")
        if pixels.shape[-3:] != (size, size, 3):
            raise ValueError(f"pixels has shape {list(pixels.shape)}; expected [..., {size}, {size}, 3]")
        return pixels

    def check_type(self, name: str, value: torch.Tensor) -> None:
        """TypeError naming the argument unless `value` is a tensor of the model's type; autocast takes all floats.

        ValueError where it is on another device.
        """
        self._check_device(name, value)
        wanted = self.action_mean.dtype
        cast = value.is_floating_point() and torch.is_autocast_enabled(value.device.type)
        if value.dtype != wanted and not cast:
            raise TypeError(f"{name} has dtype {value.dtype}; expected {wanted}, as the model has")

    def _check_device(self, name: str, value: object) -> None:
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{name} is {type(value).__name__}; expected a torch.Tensor")
        if value.device != self.action_mean.device:
            raise ValueError(
                f"{name} is on {value.device}; expected {self.action_mean.device}, where the model is"
            )

    def normalise(self, actions: torch.Tensor) -> torch.Tensor:
        """actions [..., A] in environment units -> in standard deviations of the training actions"""
        self.check_type("actions", actions)
        if actions.shape[-1:] != (self.config.action_dim,):
            expected = f"[..., {self.config.action_dim}]"
            raise ValueError(f"actions has shape {list(actions.shape)}; expected {expected}")
        return (actions - self.action_mean) / self.action_std

    def set_action_statistics(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """mean [A], std [A] of the training actions, in environment units; a constant action gets std 1."""
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != self.action_mean.shape:
                raise ValueError(f"{name} has shape {list(value.shape)}; expected [{self.config.action_dim}]")
            if not torch.isfinite(value).all():
                raise ValueError(f"{name} is not finite: {value.tolist()}")
        self.action_mean.copy_(mean)
        self.action_std.copy_(torch.where(std > 1e-6, std, 1.0))
