"""Training a LatentWAM: what is learned, what clips without actions train, and runs that go on as if never stopped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_wam import SMALL
from tiny_data import write_dots

from fastwm.data import Episodes
from fastwm.models.wam import LatentWAM
from fastwm.training.loop import train_recipe
from fastwm.training.recipes.wam import WamRecipe, WamTrainConfig

MODEL = dataclasses.replace(SMALL, action_dim=2, window=1, history=1, reach=5, chunk=3)
QUICK = WamTrainConfig(
    steps=6, batch_size=4, unroll=2, projections=8, precision="float32", threads=1, validate_every=3,
    checkpoint_every=3, log_every=1, tensorboard=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def dots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dots(tmp_path_factory.mktemp("dots") / "dots.h5")


def sample(recipe: WamRecipe, dots: Path, count: int = 4) -> dict[str, torch.Tensor]:
    episodes = Episodes(dots)
    recipe.prepare(episodes)
    batch = recipe.batch(episodes, recipe.windows(episodes)[:count])
    return batch | recipe.draws(np.random.default_rng(0), count)


@pytest.mark.parametrize("head", ["flow", "mixture"])
def test_a_run_resumed_is_a_run_never_stopped(dots: Path, tmp_path: Path, head: str) -> None:
    model = dataclasses.replace(MODEL, action_head=head)

    def run(name: str, config: WamTrainConfig, resume: bool = False) -> dict[str, torch.Tensor]:
        make = lambda: WamRecipe(model, config)  # noqa: E731
        train_recipe(make, dots, tmp_path / name, config, resume=resume, progress=False)
        return LatentWAM.load(tmp_path / name).state_dict()

    whole = run("whole", QUICK)
    with pytest.MonkeyPatch.context() as patch:

        def stop(self: WamRecipe, step: int, steps: int) -> None:
            if step == 4:
                raise KeyboardInterrupt

        patch.setattr(WamRecipe, "after_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run("part", QUICK)
    again = run("part", QUICK, resume=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert (tmp_path / "part/validation.csv").read_text() == (tmp_path / "whole/validation.csv").read_text()


def test_clips_without_actions_train_encoder_and_video_alone(dots: Path) -> None:
    recipe = WamRecipe(MODEL, QUICK)
    batch = sample(recipe, dots)
    batch["action"] = torch.full_like(batch["action"], torch.nan)
    losses = recipe(batch)
    assert losses["dynamics"] == 0
    assert losses["policy"] == 0
    losses["loss"].backward()
    model = recipe.model
    assert model.encoder.patches.weight.grad.abs().sum() > 0
    assert model.no_action.grad.abs().sum() >= 0
    for part in (model.action_encoder, model.action_stream, model.velocity, model.noisy_input):
        assert all(p.grad is None or not p.grad.any() for p in part.parameters())


def test_one_clip_without_actions_leaves_the_others_as_they_are(dots: Path) -> None:
    recipe = WamRecipe(MODEL, QUICK).eval()
    batch = sample(recipe, dots)
    batch["action"][2] = torch.nan
    rest = {name: value[[0, 1, 3]] for name, value in batch.items()}
    with torch.no_grad():
        found, expected = recipe(batch), recipe(rest)
    for name in ("dynamics", "policy"):
        torch.testing.assert_close(found[name], expected[name])


def test_each_loss_is_its_formula(dots: Path) -> None:
    """The losses of one batch from the model's public modes."""
    recipe = WamRecipe(MODEL, QUICK).eval()
    batch = sample(recipe, dots)
    batch["inverse"][:] = False
    batch["dropped"][:] = False
    with torch.no_grad():
        found, model = recipe(batch), recipe.model
        z = model.encode(batch["pixels"])
        goal = z[torch.arange(4), batch["goal"]]
        taught = (model.predict(z[:, :2], batch["action"][:, :2]) - z[:, 1:3]).square().mean()
        rolled = model.rollout(z[:, :1], batch["action"][:, None, :2])[:, 0]
        torch.testing.assert_close(found["dynamics"], (taught + (rolled - z[:, 1:3]).square().mean()) / 2)
        video = (model.watch(z[:, :2])[0] - z[:, 1:3]).square().mean()
        torch.testing.assert_close(found["video"], video)
        total, count = 0.0, 0
        for b in range(4):
            for latents, first in ((z[b, :3], 0), (rolled[b], 1)):
                for t, latent in enumerate(latents, start=first):
                    left = int(batch["goal"][b]) - t
                    if left >= 0:
                        error = (model.distance(latent, goal[b]).item() - left) / MODEL.reach
                        total += (0.8 if error > 0 else 0.2) * error**2
                        count += 1
        assert found["distance"].item() == pytest.approx(total / count, rel=1e-4)
        weights = {"dynamics": 1.0, "video": 0.1, "policy": 1.0, "distance": 0.2, "regulariser": 0.1}
        assert found["loss"].item() == pytest.approx(
            sum(w * found[name].item() for name, w in weights.items()), rel=1e-5
        )


@pytest.mark.slow
def test_it_learns(dots: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(MODEL, width=24, heads=2, head_dim=12, mlp_dim=32, projector_dim=32)
    config = dataclasses.replace(QUICK, steps=130, batch_size=32, validate_every=130, checkpoint_every=130)
    config = dataclasses.replace(config, learning_rate=3e-3, policy_weight=0.3)
    result = train_recipe(lambda: WamRecipe(model, config), dots, tmp_path / "run", config, progress=False)
    found = result.measures
    assert found["open_loop"] < 0.6 * found["copy_last"]
    assert found["probe_r2"] > 0.9
    assert found["effective_rank"] > 2


def test_refusals(dots: Path) -> None:
    episodes = Episodes(dots)
    training, validation = episodes.split(0.1)
    for changes, words in (
        ({"reach": 40}, "no training sequence of 41 frames"),
        ({"action_dim": 3}, "hold 2 numbers; action_dim is 3"),
        ({"image_size": 32}, r"images of the data are \[16, 16, 3\]; image_size is 32"),
    ):
        recipe = WamRecipe(dataclasses.replace(MODEL, **changes), QUICK)
        with pytest.raises(ValueError, match=words):
            recipe.check(episodes, training, validation)
    for changes, words in (
        ({"inverse_share": 1.5}, "inverse_share is 1.5"),
        ({"expectile": 0.0}, "expectile is 0.0"),
        ({"unroll": 0}, "unroll is 0"),
    ):
        with pytest.raises(ValueError, match=words):
            dataclasses.replace(QUICK, **changes)
