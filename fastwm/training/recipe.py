"""What a run trains. A recipe is one objective with its modules; `loop.py` does everything else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastwm.data import Episodes

Measures = dict[str, "float | None"]

# What the error ends with where a data set's pictures have another size than the model's.
RESIZE = ": to resize them, open the data with the size of the model (--image-size says both)"


def origin(episodes: Episodes) -> dict[str, str]:
    """What a model says of the data that it was trained on: its world, where the data names it."""
    world = episodes.attributes.get("world")
    return {"world": world} if isinstance(world, str) else {}


class Recipe(nn.Module, ABC):
    """One objective: its modules, its samples, its loss, its health.

    Parameters that require a gradient are optimised, and each takes part in every loss, as several processes wait for it; all
    parameters and buffers together are the state that a checkpoint holds (a target that follows its encoder: parameters without
    gradient). b: samples of a step on this process.
    """

    losses: tuple[str, ...]  # what the loss is made of: columns of metrics.csv
    measures: tuple[str, ...]  # columns of validation.csv
    frames: int = 1  # of one sample: rates are told in frames per second

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """What a run must share with the one it continues, as JSON: sizes and hyper-parameters."""

    @abstractmethod
    def check(self, episodes: Episodes, training: Episodes, validation: Episodes) -> None:
        """Raise ValueError, before any work, where the data does not fit."""

    def prepare(self, training: Episodes) -> None:
        """Take from the data what is not learned, before the first step: the statistics of actions, say."""
        del training

    @abstractmethod
    def windows(self, episodes: Episodes) -> NDArray[np.int64]:
        """The rows of `episodes` at which a sample may begin."""

    @abstractmethod
    def batch(self, episodes: Episodes, starts: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        """The samples that begin at rows `starts` [b]: tensors [b, ...]."""

    def draws(self, rng: np.random.Generator, count: int) -> dict[str, torch.Tensor]:
        """What is random about `count` samples (masks, noise, times): tensors [count, ...], which processes share out."""
        del rng, count
        return {}

    @abstractmethod
    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`batch` and `draws` together -> scalars: "loss", and each of `losses`. In bfloat16 runs autocast is on."""

    def after_step(self, step: int, steps: int) -> None:
        """What follows optimizer step `step` of `steps`: a target's moving average, say."""
        del step, steps

    @abstractmethod
    def validate(self, training: Episodes, validation: Episodes) -> Measures:
        """Each of `measures`; None where there is nothing to measure."""

    @abstractmethod
    def save(self, directory: Path, validation: Episodes) -> None:
        """Write what was learned so far to `directory`, each file whole or not at all."""
