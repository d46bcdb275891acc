"""A trained trunk that reads pictures as they are: uint8 pixels to tokens, or to one latent. What masked JEPAs leave behind."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from fastwm.models import storage
from fastwm.models.huggingface import load_ijepa, load_vjepa2
from fastwm.models.vit import ViT, ViTConfig

FORMAT = "fastwm.encoder"
VERSION = 1
IMAGENET_MEAN = (
    0.485,
    0.456,
    0.406,
)  # of red, green and blue, in 0..1: what I-JEPA and V-JEPA 2 were trained with
IMAGENET_STD = (0.229, 0.224, 0.225)


class VisionEncoder(nn.Module):
    """A `ViT` with the colours that it expects.

    Letters: B clips, N tokens, E embedding. `metadata`: strings kept beside the configuration.
    """

    colour_mean: torch.Tensor  # [3], of 0..1
    colour_std: torch.Tensor  # [3]

    def __init__(
        self,
        trunk: ViT,
        colour_mean: tuple[float, ...] = IMAGENET_MEAN,
        colour_std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.metadata: dict[str, str] = {}
        for name, values in (("colour_mean", colour_mean), ("colour_std", colour_std)):
            if len(values) != 3 or (name == "colour_std" and not min(values) > 0):
                raise ValueError(
                    f"{name} is {values!r}; expected a number for each of three colours, spread above 0"
                )
            self.register_buffer(name, torch.tensor(values))

    def set_colours(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """mean [3], std [3] of the training pictures' colours, in 0..1; a colour that never changes gets std 1."""
        if mean.shape != (3,) or std.shape != (3,) or not torch.isfinite(mean + std).all():
            raise ValueError(
                f"mean is {mean.tolist()} and std {std.tolist()}; expected three finite numbers each"
            )
        self.colour_mean.copy_(mean)
        self.colour_std.copy_(torch.where(std > 1e-3, std, 1.0))

    @property
    def config(self) -> ViTConfig:
        return self.trunk.config

    def tokens(self, pixels: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """pixels uint8 [B, frames, size, size, 3] -> tokens [B, N, E]; with keep [B, n], their places, [B, n, E]"""
        size = self.config.image_size
        if pixels.dtype != torch.uint8:
            raise TypeError(f"pixels has dtype {pixels.dtype}; expected torch.uint8")
        if pixels.ndim != 5 or pixels.shape[2:] != (size, size, 3):
            raise ValueError(
                f"pixels has shape {list(pixels.shape)}; expected [B, frames, {size}, {size}, 3]"
            )
        return self.trunk((pixels.float() / 255 - self.colour_mean) / self.colour_std, keep)

    def encode_tokens(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels uint8 [..., size, size, 3], each picture by itself -> [..., N, E].

        A trunk of clips is given the picture for as many frames as a token lasts (as V-JEPA 2-AC does).
        """
        flat = pixels.reshape(-1, 1, *pixels.shape[-3:]).expand(-1, self.config.tubelet, -1, -1, -1)
        tokens = self.tokens(flat)
        return tokens.view(*pixels.shape[:-3], *tokens.shape[1:])

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels uint8 [..., size, size, 3] -> the mean of each picture's tokens [..., E]"""
        return self.encode_tokens(pixels).mean(dim=-2)

    def digest(self) -> str:
        """A digest of everything that decides what pixels become."""
        found = hashlib.sha256(json.dumps(dataclasses.asdict(self.config), sort_keys=True).encode())
        found.update(storage.serialise(self.state_dict()))
        return found.hexdigest()

    def save(self, directory: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
        """Write `config.json` and `model.safetensors` into `directory`, each atomically."""
        kept = self.metadata if metadata is None else metadata
        config = dataclasses.asdict(self.config)
        storage.write_model(directory, FORMAT, VERSION, config, self.state_dict(), kept)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> VisionEncoder:
        """The encoder saved in `directory`, in evaluation mode; ValueError where it is missing, damaged or of another kind."""
        config, tensors, metadata = storage.read_model(directory, FORMAT, VERSION)
        try:
            encoder = cls(ViT(ViTConfig.from_dict(config)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{directory} cannot be read: {error}") from error
        storage.check_tensors(directory, expected=encoder.state_dict(), found=tensors)
        encoder.load_state_dict(tensors)
        encoder.metadata = metadata
        return encoder.eval()


def load_encoder(directory: str | os.PathLike[str]) -> VisionEncoder:
    """An encoder of ours, or one in Hugging Face's layout of I-JEPA or V-JEPA 2, frozen.

    Colours of a Hugging Face directory are those of its preprocessor_config.json, else ImageNet's.
    """
    path = Path(directory)
    if not (path / storage.CONFIG_FILE).is_file():
        raise ValueError(f"{path} holds no encoder: {storage.CONFIG_FILE} is missing")
    try:
        config = json.loads((path / storage.CONFIG_FILE).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path / storage.CONFIG_FILE} is damaged: {error}") from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind == "ijepa":
        encoder = VisionEncoder(load_ijepa(path), *_colours(path))
    elif kind == "vjepa2":
        encoder = VisionEncoder(load_vjepa2(path)[0], *_colours(path))
    elif kind is None:
        encoder = VisionEncoder.load(path)
    else:
        raise ValueError(
            f"{path}: model_type is {kind!r}; expected 'ijepa', 'vjepa2' or an encoder of fastwm"
        )
    return encoder.eval().requires_grad_(False)


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """pixels uint8 [..., h, w, 3] -> uint8 [..., size, size, 3]; unchanged where they have that size"""
    if pixels.shape[-3:-1] == (size, size):
        return pixels
    images = pixels.reshape(-1, *pixels.shape[-3:]).permute(0, 3, 1, 2).float()
    images = F.interpolate(images, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255)
    return images.to(torch.uint8).permute(0, 2, 3, 1).reshape(*pixels.shape[:-3], size, size, 3)


def _colours(path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread of the colours that a Hugging Face model was trained with."""
    file = path / "preprocessor_config.json"
    if not file.is_file():
        return IMAGENET_MEAN, IMAGENET_STD
    try:
        values = json.loads(file.read_bytes())
        return tuple(values["image_mean"]), tuple(values["image_std"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: image_mean or image_std cannot be read ({error!r})") from error
