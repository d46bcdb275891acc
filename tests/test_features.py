"""Cached latents of a frozen encoder: whole, resumed, refused; and the world model that is trained on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import write_dots

import fastwm
from fastwm.data import Episodes
from fastwm.models import WorldModelConfig
from fastwm.models.frozen import FrozenWorldModel
from fastwm.models.vision import VisionEncoder, resize
from fastwm.models.vit import ViT, ViTConfig
from fastwm.training import RunConfig, train_recipe
from fastwm.training import features as features_file
from fastwm.training.features import cache_features, data_digest, frozen
from fastwm.training.recipes.frozen import FrozenRecipe


@pytest.fixture(scope="module")
def dots(tmp_path_factory) -> Path:
    return write_dots(tmp_path_factory.mktemp("data") / "dots.h5")


def encoder(**changes) -> VisionEncoder:
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "width": 24, "depth": 1, "heads": 2, "mlp_dim": 24, **changes}
    return VisionEncoder(ViT(ViTConfig(**sizes))).eval()


def cached(encode, digest: str, dots: Path, where: Path, **changes):
    return cache_features(encode, digest, Episodes(dots), where, progress=False, **changes)


@pytest.mark.parametrize("tokens", [False, True])
@torch.no_grad()
def test_a_cache_holds_what_the_encoder_gives(tokens: bool, dots: Path, tmp_path: Path) -> None:
    model, episodes = encoder(), Episodes(dots)
    features = cached(*frozen(model, tokens=tokens), dots, tmp_path, chunk=37)
    assert features.shape == ((16, 24) if tokens else (24,))
    assert isinstance(features.latents, np.memmap)
    starts = episodes.windows(3, frame_skip=2)[::17]
    pixels = torch.as_tensor(episodes.batch(starts, 3, frame_skip=2)["pixels"])
    truth = model.encode_tokens(pixels) if tokens else model.encode(pixels)
    torch.testing.assert_close(features.batch(starts, 3, 2), truth, rtol=1e-5, atol=1e-6)


def test_an_encoder_is_asked_once(dots: Path, tmp_path: Path) -> None:
    seen = []

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return pixels.float().mean((1, 2))

    first = cached(encode, "mean colour", dots, tmp_path)
    assert sum(seen) == 480
    again = cached(encode, "mean colour", dots, tmp_path)
    assert sum(seen) == 480
    np.testing.assert_array_equal(first.latents, again.latents)
    cached(encode, "another", dots, tmp_path)
    cached(encode, "mean colour", dots, tmp_path, dtype="float16")
    assert sum(seen) == 3 * 480
    assert len(list(tmp_path.iterdir())) == 3


def stop_half_way(encode, digest: str, dots: Path, where: Path) -> None:
    """A cache that is interrupted in its sixth chunk of 50."""
    calls = []

    def stopping(pixels: torch.Tensor) -> torch.Tensor:
        calls.append(pixels)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return encode(pixels)

    with pytest.raises(KeyboardInterrupt):
        cached(stopping, digest, dots, where, chunk=50)


def test_a_killed_cache_goes_on_where_it_was(dots: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(features_file, "SAVE_EVERY", 2)
    encode, digest = frozen(encoder())
    whole = cached(encode, digest, dots, tmp_path / "whole", chunk=50)
    stop_half_way(encode, digest, dots, tmp_path / "parts")
    (directory,) = (tmp_path / "parts").iterdir()
    assert json.loads((directory / "features.json").read_text())["frames_done"] == 200
    assert not (directory / "latents.npy").exists()
    calls = []
    resumed = cached(lambda p: (calls.append(p), encode(p))[1], digest, dots, tmp_path / "parts", chunk=50)
    assert len(calls) == 6  # 280 frames were left
    np.testing.assert_array_equal(resumed.latents, whole.latents)


def test_a_killed_cache_that_lost_bytes_is_not_filled_with_zeros(
    dots: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(features_file, "SAVE_EVERY", 2)
    encode, digest = frozen(encoder())
    stop_half_way(encode, digest, dots, tmp_path)
    (partial,) = tmp_path.glob("*/latents.partial.npy")
    partial.write_bytes(partial.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"latents\.partial\.npy is damaged"):
        cached(encode, digest, dots, tmp_path, chunk=50)
    assert partial.stat().st_size == 1000


@pytest.mark.parametrize(
    ("latents", "words"),
    [
        (np.zeros((50, 3), np.float32), r"expected float32 \[480, …\] latents, got float32 \[50, 3\]"),
        (np.zeros((480, 3), np.float16), r"got float16 \[480, 3\]"),
        (np.zeros(480, np.float32), r"got float32 \[480\]"),
        (np.full((480, 3), "no"), r"got <U2 \[480, 3\]"),
    ],
)
def test_a_cache_of_another_shape_is_named(
    latents: np.ndarray, words: str, dots: Path, tmp_path: Path
) -> None:
    encode = lambda p: p.float().mean((1, 2))  # noqa: E731
    cached(encode, "e", dots, tmp_path)
    (file,) = tmp_path.glob("*/latents.npy")
    np.save(file, latents)
    with pytest.raises(ValueError, match=rf"latents\.npy is damaged: .*{words}"):
        cached(encode, "e", dots, tmp_path)


def broken(pixels: torch.Tensor) -> torch.Tensor:
    latents = pixels.float().mean((1, 2))
    latents[3, 1] = torch.nan
    return latents


def test_bad_encoders_and_damaged_caches_are_named(dots: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"latents of shape \[64\]; expected \[64, E\]"):
        cached(lambda p: p.float().mean((1, 2, 3)), "a", dots, tmp_path / "a")
    with pytest.raises(ValueError, match="not finite for row 3"):
        cached(broken, "b", dots, tmp_path / "b")
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        cached(frozen(encoder())[0], "c", dots, tmp_path, dtype="int8")
    with pytest.raises(ValueError, match="beyond its largest number"):
        cached(lambda p: torch.full((len(p), 2), 1e6), "d", dots, tmp_path, dtype="float16")
    cached(lambda p: p.float().mean((1, 2)), "e", dots, tmp_path / "e")
    (directory,) = (tmp_path / "e").iterdir()
    record = json.loads((directory / "features.json").read_text())
    (directory / "features.json").write_text(json.dumps({**record, "frames_done": 7}))
    with pytest.raises(ValueError, match="tells of 7 frames, and the cache is one of 480"):
        cached(lambda p: p.float().mean((1, 2)), "e", dots, tmp_path / "e")
    (directory / "features.json").write_text(json.dumps({**record, "frames_done": -7}))
    with pytest.raises(ValueError, match="tells of -7 frames"):
        cached(lambda p: p.float().mean((1, 2)), "e", dots, tmp_path / "e")
    (directory / "features.json").write_text("{")
    with pytest.raises(ValueError, match=r"features\.json is damaged"):
        cached(lambda p: p.float().mean((1, 2)), "e", dots, tmp_path / "e")


def test_other_data_has_another_digest(dots: Path, tmp_path: Path) -> None:
    other = write_dots(tmp_path / "other.h5", seed=1)
    assert data_digest(Episodes(dots)) == data_digest(Episodes(dots))
    assert data_digest(Episodes(dots)) != data_digest(Episodes(other))


def test_pictures_are_resized_to_the_trunk() -> None:
    pixels = torch.full((2, 3, 16, 16, 3), 77, dtype=torch.uint8)
    assert resize(pixels, 16) is pixels
    larger = resize(pixels, 24)
    assert larger.shape == (2, 3, 24, 24, 3)
    assert (larger == 77).all()
    pixels[..., 8:, :] = 200
    assert (resize(pixels, 4)[..., 0, 0] == 77).all()
    assert (resize(pixels, 4)[..., 3, 0] == 200).all()


# ---- the world model ----------------------------------------------------------------------------------------------------


SIZES = {"embed_dim": 24, "image_size": 16, "action_hidden": 16, "width": 16, "heads": 2, "head_dim": 8}


def recipe(dots: Path, where: Path, **changes):
    model = encoder()
    config = WorldModelConfig(action_dim=2, **{**SIZES, "mlp_dim": 32, "projector_dim": 32})
    features = cached(*frozen(model), dots, where)
    return lambda: FrozenRecipe(config, model, features, **changes)


def run(steps: int = 60) -> RunConfig:
    return RunConfig(
        steps=steps, batch_size=32, warmup_steps=5, learning_rate=3e-3, precision="float32", threads=1, tensorboard=False,
        validation_fraction=0.2,
    )  # fmt: skip


def test_a_world_model_on_frozen_latents_learns_saves_and_plans(dots: Path, tmp_path: Path) -> None:
    result = train_recipe(recipe(dots, tmp_path / "cache"), dots, tmp_path / "run", run(), progress=False)
    assert result.measures["open_loop_1"] < 0.8 * result.measures["copy_last_1"]
    before = encoder().state_dict()
    for name, tensor in result.recipe.model.encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name

    model = FrozenWorldModel.load(tmp_path / "run")
    episodes = Episodes(dots)
    pixels = torch.as_tensor(episodes.batch(episodes.windows(1), 1)["pixels"][:, 0])
    latents = model.encode(pixels)
    assert latents.mean(0).abs().max() < 0.5
    assert latents.std(0).square().mean().sqrt().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(latents, result.recipe.model.encode(pixels))
    planner = fastwm.Planner(
        fastwm.compile(model, backend="torch"), fastwm.CEM(samples=20, elites=4, iterations=2), horizon=3
    )
    plan = planner.plan(pixels[:1], pixels[5:6])
    assert plan.actions.shape == (1, 3, 2)
    assert np.isfinite(float(plan.cost[0]))


def test_settings_and_data_that_do_not_fit_are_refused(dots: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"frames is 6; the model's window allows 2..4"):
        recipe(dots, tmp_path, frames=6)()
    with pytest.raises(ValueError, match=r"rollout_steps is 4; frames of 4 allow 1..3"):
        recipe(dots, tmp_path, rollout_steps=4)()
    features = cached(*frozen(encoder(), tokens=True), dots, tmp_path)
    config = WorldModelConfig(action_dim=2, **SIZES)
    with pytest.raises(
        ValueError, match=r"features have \[16, 24\] numbers a frame; expected embed_dim, \[24\]"
    ):
        FrozenRecipe(config, encoder(), features)
    with pytest.raises(ValueError, match="embed_dim is 24; the encoder's latents have 12 numbers"):
        FrozenWorldModel(config, encoder(width=12))
    other = write_dots(tmp_path / "other.h5", seed=1)
    with pytest.raises(ValueError, match="features were made from other episodes"):
        train_recipe(recipe(dots, tmp_path), other, tmp_path / "run", run(1), progress=False)
    with pytest.raises(ValueError, match="the encoder has collapsed"):
        FrozenWorldModel(config, encoder()).set_latent_statistics(torch.ones(9, 24))
