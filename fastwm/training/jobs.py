"""What `fastwm train --objective NAME` trains: its flags, and from those that were given the recipe and the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastwm.data import Episodes
from fastwm.models import LatentWAMConfig, WorldModelConfig
from fastwm.models.vit import ViTConfig
from fastwm.training.config import RunConfig, TrainConfig
from fastwm.training.ranks import Ranks
from fastwm.training.recipe import Recipe
from fastwm.training.recipes.catalogue import run_config, vision_recipe
from fastwm.training.recipes.wam import WamRecipe, WamTrainConfig
from fastwm.training.recipes.world_model import WorldModelRecipe

STEPS = 3000  # unless --steps says otherwise
FEATURES = "features"  # below the run: latents of a frozen encoder
UNUSED = {  # fields of a model that is learned from pixels; a frozen encoder brings its own, and cannot collapse
    "encoder", "encoder_width", "patch_size", "encoder_depth", "embed_dim", "projector_dim",
    "regulariser", "regulariser_weight", "projections", "knots",
}  # fmt: skip

Values = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Job:
    """A recipe to be built, and how it is run."""

    make: Callable[[], Recipe]
    run: RunConfig


@dataclasses.dataclass(frozen=True)
class Objective:
    """model, run: configurations whose fields are flags, with their defaults. presets: the first is the default."""

    presets: tuple[str, ...]
    model: Any
    run: RunConfig
    summary: str
    unused: frozenset[str] = frozenset()  # fields that are no flags

    def fields(self, part: Any) -> list[str]:
        """Those of `model` or `run` that are flags."""
        return [field.name for field in dataclasses.fields(part) if field.name not in self.unused]


OBJECTIVES = {
    "world-model": Objective(
        ("small", "mlp", "paper"),
        WorldModelConfig.preset("small", action_dim=2),
        TrainConfig.preset("small", steps=STEPS),
        "LeWM: encoder and predictor from pixels and actions; SIGReg or VICReg against collapse",
    ),
    "wam": Objective(
        ("small",),
        LatentWAMConfig(action_dim=2),
        WamTrainConfig(steps=STEPS),
        "a LatentWAM: a world model and a policy with one set of weights",
    ),
    "frozen": Objective(
        ("small", "mlp"),
        WorldModelConfig.preset("small", action_dim=2),
        TrainConfig.preset("small", steps=STEPS, rollout_steps=2),
        "a world model on the latents of a frozen encoder (--encoder-dir), computed once",
        frozenset(UNUSED),
    ),
    "ijepa": Objective(
        ("small", "paper"),
        ViTConfig.preset("tiny"),
        run_config("ijepa", steps=STEPS),
        "an encoder of pictures: from one block of a picture, the latents of others",
    ),
    "vjepa": Objective(
        ("small", "paper"),
        ViTConfig.preset("tiny-video"),
        run_config("vjepa", steps=STEPS),
        "an encoder of clips: masked tubes of a video",
    ),
    "lejepa": Objective(
        ("small", "paper"),
        ViTConfig.preset("tiny"),
        run_config("lejepa", steps=STEPS),
        "an encoder of pictures: views agree, latents are Gaussian (SIGReg)",
    ),
}


def job(
    objective: str,
    preset: str,
    episodes: Episodes,
    run_dir: Path,
    here: Ranks,
    *,
    model: Values,
    run: Values,
    encoder_dir: str | None,
    progress: bool,
) -> Job:
    """The job of a command line. model, run: fields that were given. here: the run's processes, of which the first encodes.

    Raises ValueError where a field, the data or the encoder does not fit.
    """
    run = {"steps": STEPS, **run}
    if objective == "frozen" and encoder_dir is None:
        raise ValueError(
            "--objective frozen learns on an encoder that was trained: give its directory, --encoder-dir"
        )
    if objective != "frozen" and encoder_dir is not None:
        raise ValueError("--encoder-dir is the encoder of --objective frozen: give both")
    if objective in ("ijepa", "vjepa", "lejepa"):
        return Job(vision_recipe(objective, preset, **model), run_config(objective, preset, **run))
    if not episodes.has_actions:
        raise ValueError(
            f"{episodes.path} has no actions, from which {objective} learns; ijepa, vjepa and lejepa need none"
        )
    model["action_dim"] = episodes.action_dim * model.get("action_block", 1)
    if objective == "wam":
        sizes, config = LatentWAMConfig(**model), WamTrainConfig(**run)
        return Job(lambda: WamRecipe(sizes, config), config)
    if objective == "frozen":
        run = {"rollout_steps": min(2, run.get("frames", TrainConfig.frames) - 1), **run}
    trained = TrainConfig.preset("paper" if preset == "paper" else "small", **run)
    if objective == "world-model":
        described = WorldModelConfig.preset(preset, **model)
        return Job(lambda: WorldModelRecipe(described, trained), trained)
    return _frozen(preset, episodes, run_dir, here, model, trained, str(encoder_dir), progress)


def _frozen(
    preset: str,
    episodes: Episodes,
    run_dir: Path,
    here: Ranks,
    model: Values,
    config: TrainConfig,
    encoder_dir: str,
    progress: bool,
) -> Job:
    from fastwm.models.vision import load_encoder
    from fastwm.training.features import cache_features, frozen
    from fastwm.training.recipes.frozen import FrozenRecipe, check_fit

    encoder = load_encoder(encoder_dir)
    picture = episodes.batch(episodes.windows(1)[:1], 1, columns=("pixels",))["pixels"]
    sizes = {"image_size": picture.shape[2], **model, "embed_dim": encoder.config.width}
    described = WorldModelConfig.preset(preset, **sizes)
    check_fit(described, config.frames, *episodes.split(config.validation_fraction, seed=config.seed))
    encode, digest = frozen(encoder)
    if here.first:
        cache_features(encode, digest, episodes, run_dir / FEATURES, progress=progress)
    here.wait()
    features = cache_features(encode, digest, episodes, run_dir / FEATURES, progress=False)
    return Job(
        lambda: FrozenRecipe(
            described,
            encoder,
            features,
            frames=config.frames,
            rollout_steps=config.rollout_steps,
            rollout_weight=config.rollout_weight,
        ),
        config,
    )
