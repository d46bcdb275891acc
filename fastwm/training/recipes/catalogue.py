"""Objectives that learn an encoder from pixels alone, by the names that the command line has for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastwm.training.config import RunConfig
from fastwm.training.recipes import image_jepa, lejepa, video_jepa
from fastwm.training.recipes.vision import VisionRecipe

OBJECTIVES = ("ijepa", "vjepa", "lejepa")
_RUNS = {"ijepa": image_jepa.RUN, "vjepa": video_jepa.RUN, "lejepa": lejepa.RUN}


def vision_recipe(objective: str, preset: str = "small", **changes: Any) -> Callable[[], VisionRecipe]:
    """What `train_recipe` is given to train `objective`. changes: fields of `ViTConfig`; frame_skip of vjepa and lejepa.

    Raises ValueError for an unknown objective, preset or size, before anything is built.
    """
    _check(objective, preset)
    if objective == "ijepa":
        masked = image_jepa.image_jepa(preset, **changes)
        return lambda: image_jepa.ImageJEPARecipe(masked)
    if objective == "vjepa":
        clips = video_jepa.video_jepa(preset, **changes)
        return lambda: video_jepa.VideoJEPARecipe(clips)
    views = lejepa.lejepa(preset, **changes)
    return lambda: lejepa.LeJEPARecipe(views)


def run_config(objective: str, preset: str = "small", *, steps: int, **changes: Any) -> RunConfig:
    """The run of a preset, with any field changed."""
    _check(objective, preset)
    return RunConfig(**{**_RUNS[objective][preset], "steps": steps, **changes})


def _check(objective: str, preset: str) -> None:
    if objective not in OBJECTIVES:
        raise ValueError(f"objective is {objective!r}; expected one of {list(OBJECTIVES)}")
    if preset not in _RUNS[objective]:
        raise ValueError(f"preset is {preset!r}; {objective} has {sorted(_RUNS[objective])}")
