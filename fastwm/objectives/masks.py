"""Which tokens a masked JEPA sees and which it predicts: blocks of a picture, and blocks of a clip that last in time.

Sizes of blocks are drawn once for a batch and places for every sample, from a numpy generator, so that processes which share a
batch draw what one would. Where samples are left with unequal numbers of tokens, all are cut to the fewest, at random: the
published code keeps the first in order, which hides the lower right of a picture more often than the upper left.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

TRIES = 200  # draws of one sample's places before its settings count as impossible


@dataclasses.dataclass(frozen=True)
class Masks:
    """context int64 [b, n]: places that are seen; targets int64 [b, M, m]: places to predict, M sets each by itself."""

    context: torch.Tensor
    targets: torch.Tensor


@dataclasses.dataclass(frozen=True)
class ImageMasks:
    """I-JEPA's blocks (arXiv:2301.08243, section 3 and appendix A.1): targets, and a large context without them.

    rows, columns: tokens of a picture. Scales are shares of the picture's area; aspect is height over width.
    """

    rows: int
    columns: int
    targets: int = 4
    target_scale: tuple[float, float] = (0.15, 0.2)
    target_aspect: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)
    least_context: int = 10

    def __post_init__(self) -> None:
        _check_integers(self, "rows", "columns", "targets", "least_context")
        for name in ("target_scale", "context_scale"):
            _check_range(name, getattr(self, name), most=1.0)
        _check_range("target_aspect", self.target_aspect)

    def draw(self, rng: np.random.Generator, count: int) -> Masks:
        """Masks of `count` samples; ValueError where blocks of these sizes leave too little context."""
        target = _block(rng, self.rows, self.columns, self.target_scale, self.target_aspect)
        context = _block(rng, self.rows, self.columns, self.context_scale, (1.0, 1.0))
        drawn = [self._sample(rng, target, context) for _ in range(count)]
        return Masks(
            _equal(rng, [seen for seen, _ in drawn]), torch.as_tensor(np.stack([t for _, t in drawn]))
        )

    def _sample(
        self, rng: np.random.Generator, target: tuple[int, int], context: tuple[int, int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Context [n] and targets [M, m] of one sample."""
        for _ in range(TRIES):
            targets = np.stack(
                [np.flatnonzero(_place(rng, self.rows, self.columns, target)) for _ in range(self.targets)]
            )
            seen = _place(rng, self.rows, self.columns, context)
            seen.flat[targets.ravel()] = False
            if seen.sum() >= self.least_context:
                return np.flatnonzero(seen), targets
        raise ValueError(
            f"{self.targets} targets of {target[0]} x {target[1]} in {self.rows} x {self.columns} tokens leave fewer than "
            f"least_context, {self.least_context}, in {TRIES} draws"
        )


@dataclasses.dataclass(frozen=True)
class ClipMasks:
    """V-JEPA's blocks (arXiv:2404.08471, section 3.2): what none of `blocks` covers is context, their union the one target.

    time, rows, columns: tokens of a clip. scale: a block's share of a frame's area; duration: of the clip's length.
    """

    time: int
    rows: int
    columns: int
    blocks: int = 8
    scale: tuple[float, float] = (0.15, 0.15)
    aspect: tuple[float, float] = (0.75, 1.5)
    duration: float = 1.0

    def __post_init__(self) -> None:
        _check_integers(self, "time", "rows", "columns", "blocks")
        _check_range("scale", self.scale, most=1.0)
        _check_range("aspect", self.aspect)
        _check_range("duration", (self.duration, self.duration), most=1.0)

    @classmethod
    def published(cls, time: int, rows: int, columns: int) -> tuple[ClipMasks, ClipMasks]:
        """The short-range and the long-range masks of V-JEPA and V-JEPA 2."""
        return (
            cls(time, rows, columns, blocks=8, scale=(0.15, 0.15)),
            cls(time, rows, columns, blocks=2, scale=(0.7, 0.7)),
        )

    def draw(self, rng: np.random.Generator, count: int) -> Masks:
        """Masks of `count` samples, M = 1; ValueError where blocks of these sizes leave no context."""
        size = _block(rng, self.rows, self.columns, self.scale, self.aspect)
        hidden = [self._sample(rng, size) for _ in range(count)]
        context = _equal(rng, [np.flatnonzero(~h) for h in hidden])
        return Masks(context, _equal(rng, [np.flatnonzero(h) for h in hidden])[:, None])

    def _sample(self, rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.bool_]:
        """What is hidden of one sample [time, rows, columns]."""
        length = max(1, round(self.duration * self.time))
        for _ in range(TRIES):
            hidden = np.zeros((self.time, self.rows, self.columns), bool)
            for _ in range(self.blocks):
                first = rng.integers(self.time - length + 1)
                hidden[first : first + length] |= _place(rng, self.rows, self.columns, size)
            if not hidden.all():
                return hidden
        raise ValueError(
            f"{self.blocks} blocks of {size[0]} x {size[1]} in {self.rows} x {self.columns} tokens leave no context in "
            f"{TRIES} draws"
        )


def _block(
    rng: np.random.Generator,
    rows: int,
    columns: int,
    scale: tuple[float, float],
    aspect: tuple[float, float],
) -> tuple[int, int]:
    """Height and width of a block, in tokens."""
    area, ratio = rows * columns * rng.uniform(*scale), rng.uniform(*aspect)
    height, width = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
    return min(max(height, 1), rows), min(max(width, 1), columns)


def _place(rng: np.random.Generator, rows: int, columns: int, size: tuple[int, int]) -> NDArray[np.bool_]:
    """A block somewhere in a frame: true inside [rows, columns]."""
    top, left = rng.integers(rows - size[0] + 1), rng.integers(columns - size[1] + 1)
    inside = np.zeros((rows, columns), bool)
    inside[top : top + size[0], left : left + size[1]] = True
    return inside


def _equal(rng: np.random.Generator, places: list[NDArray[np.int64]]) -> torch.Tensor:
    """[b, fewest]: a random part of each, in order."""
    fewest = min(len(p) for p in places)
    return torch.as_tensor(np.stack([np.sort(rng.permutation(p)[:fewest]) for p in places]))


def _check_integers(masks: ImageMasks | ClipMasks, *names: str) -> None:
    for name in names:
        value = getattr(masks, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected an integer of at least 1")


def _check_range(name: str, value: tuple[float, float], most: float = np.inf) -> None:
    if len(value) != 2 or not 0 < value[0] <= value[1] <= most:
        bound = "" if most == np.inf else f" <= {most:g}"
        raise ValueError(f"{name} is {value!r}; expected 0 < least <= most{bound}")
