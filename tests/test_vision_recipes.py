"""I-JEPA, V-JEPA and LeJEPA end to end on a world that is learned in seconds."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import write_dots

from fastwm.data import Episodes, EpisodeWriter
from fastwm.models.vision import load_encoder
from fastwm.training import train_recipe
from fastwm.training.loop import CHECKPOINT_FILE
from fastwm.training.recipes.catalogue import OBJECTIVES, run_config, vision_recipe

SMALL = {"image_size": 16, "patch_size": 2, "width": 24, "depth": 1, "heads": 2, "mlp_dim": 24}


def small(objective: str, **changes):
    clips = {"frames": 4, "tubelet": 2} if objective == "vjepa" else {}
    return vision_recipe(objective, **{**SMALL, **clips, **changes})


def short(objective: str, **changes):
    settings = {"steps": 6, "batch_size": 8, "precision": "float32", "threads": 1, "tensorboard": False}
    return run_config(objective, **{**settings, "validation_fraction": 0.2, "warmup_steps": 2, **changes})


@pytest.fixture(scope="module")
def dots(tmp_path_factory) -> Path:
    return write_dots(tmp_path_factory.mktemp("data") / "dots.h5")


def test_other_pictures_of_the_same_lengths_are_other_data(tmp_path: Path) -> None:
    def clips(seed: int) -> Path:
        dots = Episodes(write_dots(tmp_path / f"dots-{seed}.h5", episodes=10, seed=seed))
        with EpisodeWriter(tmp_path / f"{seed}.h5") as writer:
            for offset, length in zip(dots.offsets, dots.lengths, strict=True):
                writer.append(pixels=dots.batch([offset], int(length), columns=("pixels",))["pixels"][0])
        return tmp_path / f"{seed}.h5"

    def run(data: Path, **options: bool) -> None:
        train_recipe(
            small("lejepa"), data, tmp_path / "run", short("lejepa", steps=2), progress=False, **options
        )

    run(clips(0))
    run(clips(0), resume=True)
    with pytest.raises(ValueError, match="trained on other data"):
        run(clips(1), resume=True)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_run_leaves_curves_measures_and_an_encoder(objective: str, dots: Path, tmp_path: Path) -> None:
    config = short(objective, steps=40, log_every=1, validate_every=20)
    result = train_recipe(small(objective), dots, tmp_path, config, progress=False)
    losses = [float(row["loss"]) for row in csv.DictReader((tmp_path / "metrics.csv").open())]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    rows = list(csv.DictReader((tmp_path / "validation.csv").open()))
    assert [row["step"] for row in rows] == ["20", "40"]
    assert all(np.isfinite([float(value) for value in row.values()]).all() for row in rows)
    assert rows[0]["probe_r2_pixels"] == rows[1]["probe_r2_pixels"]
    assert 1 <= float(rows[1]["effective_rank"]) <= 24
    pixels = torch.randint(256, (3, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        truth = result.recipe.trained().encode(pixels)
    assert torch.equal(load_encoder(tmp_path).encode(pixels), truth)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_resumed_run_is_the_run_never_stopped(objective: str, dots: Path, tmp_path: Path) -> None:
    config = short(objective, checkpoint_every=3, validate_every=3)
    train_recipe(small(objective), dots, tmp_path / "whole", config, progress=False)

    class Stopped(Exception):
        pass

    def stopping():
        recipe = small(objective)()
        save = recipe.after_step

        def after_step(step: int, steps: int) -> None:
            save(step, steps)
            if step == 5:
                raise Stopped

        recipe.after_step = after_step
        return recipe

    with pytest.raises(Stopped):
        train_recipe(stopping, dots, tmp_path / "parts", config, progress=False)
    train_recipe(small(objective), dots, tmp_path / "parts", config, resume=True, progress=False)
    for name in ("model.safetensors", "metrics.csv", "validation.csv", CHECKPOINT_FILE):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.parametrize("objective", ["ijepa", "vjepa"])
def test_only_the_context_encoder_and_the_predictor_learn(objective: str, dots: Path) -> None:
    torch.manual_seed(0)
    recipe = small(objective)()
    training = Episodes(dots)
    before = {name: tensor.clone() for name, tensor in recipe.target.state_dict().items()}
    batch = recipe.batch(training, recipe.windows(training)[:4]) | recipe.draws(np.random.default_rng(0), 4)
    recipe(batch)["loss"].backward()
    for name, parameter in recipe.named_parameters():
        if name.startswith("target."):
            assert parameter.grad is None
            assert not parameter.requires_grad
        else:
            assert parameter.grad.abs().sum() > 0, name
    with torch.no_grad():
        for parameter in recipe.encoder.parameters():
            parameter.add_(1)
    recipe.after_step(1, 100)
    first = recipe.config.momentum[0]
    for name, parameter in recipe.target.named_parameters():
        torch.testing.assert_close(parameter, before[name] + (1 - first), rtol=0, atol=1e-6)


def test_what_is_hidden_does_not_reach_the_prediction(dots: Path) -> None:
    """Pixels of tokens outside the context change the target alone: predictions keep their bits."""
    torch.manual_seed(0)
    recipe = small("ijepa")().eval()
    draws = recipe.draws(np.random.default_rng(0), 2)
    pixels = torch.randint(256, (2, 1, 16, 16, 3), dtype=torch.uint8)
    others = pixels.clone()
    for sample in (0, 1):
        hidden = sorted(set(range(64)) - set(draws["context_0"][sample].tolist()))
        for row, column in (divmod(place, 8) for place in hidden):
            others[sample, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] ^= 255
    seen = [recipe.encoder.tokens(p, draws["context_0"]) for p in (pixels, others)]
    assert torch.equal(*seen)
    wanted = [recipe.target.tokens(p) for p in (pixels, others)]
    assert not torch.allclose(*wanted, atol=1e-3)


def test_lejepas_loss_is_its_parts(dots: Path) -> None:
    torch.manual_seed(0)
    recipe = small("lejepa", frame_skip=2)().eval()
    training = Episodes(dots)
    batch = recipe.batch(training, recipe.windows(training)[:5])
    assert batch["pixels"].shape == (5, 2, 16, 16, 3)
    found = recipe(batch)
    z = recipe.projector(recipe.encoder.encode(batch["pixels"])).detach().double().numpy()
    agreement = ((z - z.mean(1, keepdims=True)) ** 2).mean()
    assert found["agreement"].item() == pytest.approx(agreement, rel=1e-4)
    parts = 0.95 * found["agreement"] + 0.05 * found["regulariser"]
    assert found["loss"].item() == pytest.approx(parts.item(), rel=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_descriptions_are_json_and_tell_settings_apart(objective: str) -> None:
    one, other = (small(objective, depth=depth)().description() for depth in (1, 2))
    assert json.dumps(one) != json.dumps(other)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vision_recipe("mae"), "objective is 'mae'; expected one of"),
        (lambda: vision_recipe("ijepa", "huge"), "preset is 'huge'; ijepa has"),
        (lambda: run_config("vjepa", "huge", steps=1), "preset is 'huge'; vjepa has"),
        (lambda: small("ijepa", frames=2)(), "frames is 2; I-JEPA sees pictures, expected 1"),
        (lambda: small("lejepa", frames=2), "LeJEPA's views are pictures"),
        (lambda: small("vjepa", frame_skip=0)(), "frame_skip is 0"),
    ],
)
def test_bad_settings_are_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_data_that_does_not_fit_is_refused_before_any_work(dots: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"images of the data are \[16, 16, 3\]; image_size is 32"):
        train_recipe(small("ijepa", image_size=32), dots, tmp_path / "a", short("ijepa"), progress=False)
    with pytest.raises(
        ValueError, match="no training clip of 14 frames in a row: it has 40 episodes, the longest of 12"
    ):
        train_recipe(small("vjepa", frames=14), dots, tmp_path / "a", short("vjepa"), progress=False)
    assert not os.path.exists(tmp_path / "a")


def test_episodes_of_one_frame(tmp_path: Path) -> None:
    """Their actions lead nowhere; of pictures all is learned. One held-out picture is too few to measure collapse on."""

    def pictures(lengths: tuple[int, ...]) -> Path:
        path = tmp_path / f"{len(lengths)}.h5"
        rng = np.random.default_rng(0)
        with EpisodeWriter(path) as writer:
            for length in lengths:
                frames = rng.integers(0, 256, (length, 16, 16, 3), np.uint8)
                writer.append(pixels=frames, action=np.zeros((length, 2), np.float32))
        return path

    config = short("ijepa", steps=2, batch_size=4, validation_fraction=0.2)
    train_recipe(small("ijepa"), pictures(12 * (1,)), tmp_path / "run", config, progress=False)
    assert (tmp_path / "run" / "model.safetensors").exists()
    with pytest.raises(ValueError, match="has 1 validation clip of 1 frames; measuring collapse takes two"):
        train_recipe(small("ijepa"), pictures(5 * (1,)), tmp_path / "none", config, progress=False)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("objective", "preset"),
    [("ijepa", "paper"), ("vjepa", "paper"), ("vjepa", "paper-2"), ("lejepa", "paper")],
)
def test_published_sizes_can_be_built(objective: str, preset: str) -> None:
    depth = {"ijepa": 32, "vjepa": 24, "lejepa": 24}[objective]
    with torch.device("meta"):
        recipe = vision_recipe(objective, preset, depth=1)()
    count, block = (
        sum(p.numel() for p in part.parameters())
        for part in (recipe.trained(), recipe.trained().trunk.blocks)
    )
    millions = (count + (depth - 1) * block) / 1e6
    assert millions == pytest.approx({"ijepa": 630, "vjepa": 303, "lejepa": 303}[objective], rel=0.02)
    assert run_config(objective, preset, steps=10).learning_rate > 0
