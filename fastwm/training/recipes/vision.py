"""What recipes of trunks share: clips of the data, collapse measures and a probe of single frames, an encoder on disk."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastwm.data import Episodes
from fastwm.models.vision import VisionEncoder
from fastwm.models.vit import ViTConfig
from fastwm.training.collapse import BASELINES, COLUMNS, Judged, clips, measure, measure_baselines
from fastwm.training.recipe import RESIZE, Measures, Recipe
from fastwm.training.sampler import evenly_spaced

SAMPLES = 64  # held-out clips that the losses are measured on


class VisionRecipe(Recipe):
    """Trains a `VisionEncoder` on clips [b, frames, size, size, 3] of pixels alone: actions are not read.

    pooled: its latent of a picture is the mean of the tokens.
    """

    measures = ("loss", *COLUMNS, *BASELINES)
    pooled = True

    def __init__(self, trunk: ViTConfig, *, frames: int, frame_skip: int) -> None:
        super().__init__()
        if not isinstance(frame_skip, int) or frame_skip < 1:
            raise ValueError(f"frame_skip is {frame_skip!r}; expected an integer of at least 1")
        self.trunk = trunk
        self.frames = frames
        self.frame_skip = frame_skip
        self._baselines: dict[str, float | None] | None = None  # the same at every step: measured once

    @abstractmethod
    def trained(self) -> VisionEncoder:
        """The encoder that is measured and saved."""

    def encoders(self) -> list[VisionEncoder]:
        """All that see pictures."""
        return [module for module in self.modules() if isinstance(module, VisionEncoder)]

    def check(self, episodes: Episodes, training: Episodes, validation: Episodes) -> None:
        for name, part in (("training", training), ("validation", validation)):
            if len(self.windows(part)) == 0:
                apart = "in a row" if self.frame_skip == 1 else f"{self.frame_skip} decisions apart"
                raise ValueError(
                    f"the data has no {name} clip of {self.frames} frames {apart}: it has {len(episodes.lengths)} episodes, "
                    f"the longest of {max(episodes.lengths, default=0)} frames"
                )
        judged = len(validation.windows(self.trunk.frames, frame_skip=self.frame_skip))
        if judged < 2:
            raise ValueError(
                f"the data has {judged} validation clip of {self.trunk.frames} frames; measuring collapse takes two: "
                "a larger validation_fraction, or more episodes"
            )
        first = training.batch(training.windows(1)[:1], 1, columns=("pixels",))
        image, size = list(first["pixels"].shape[2:]), self.trunk.image_size
        if image != [size, size, 3]:
            raise ValueError(f"images of the data are {image}; image_size is {size}{RESIZE}")

    def prepare(self, training: Episodes) -> None:
        """Colours of the training pictures: where most of a picture is one colour, ImageNet's would make that the loudest."""
        frames, _ = clips(training)
        colours = frames.flatten(0, 3).double() / 255
        for encoder in self.encoders():
            encoder.set_colours(colours.mean(dim=0).float(), colours.std(dim=0).float())

    def windows(self, episodes: Episodes) -> NDArray[np.int64]:
        return episodes.windows(self.frames, frame_skip=self.frame_skip)

    def batch(self, episodes: Episodes, starts: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        found = episodes.batch(starts, self.frames, frame_skip=self.frame_skip, columns=("pixels",))
        return {"pixels": torch.as_tensor(found["pixels"])}

    @torch.no_grad()
    def validate(self, training: Episodes, validation: Episodes) -> Measures:
        judged = Judged(training, validation, self.trunk.frames, self.frame_skip, self.pooled)
        if self._baselines is None:
            self._baselines = measure_baselines(self.trained(), judged)
        was_training = self.training
        self.eval()
        starts = evenly_spaced(self.windows(validation), SAMPLES)
        encoder = self.trained()
        device = encoder.colour_mean.device
        batch = self.batch(validation, starts) | self.draws(np.random.default_rng(0), len(starts))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss = self({name: value.to(device) for name, value in batch.items()})["loss"].item()
        found = measure(encoder, judged)
        self.train(was_training)
        return {"loss": loss, **found, **self._baselines}

    def save(self, directory: Path, validation: Episodes) -> None:
        del validation
        self.trained().save(directory)
