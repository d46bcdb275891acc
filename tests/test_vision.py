"""Encoders on disk, ours and Hugging Face's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fastwm.models.vision import IMAGENET_MEAN, IMAGENET_STD, VisionEncoder, load_encoder
from fastwm.models.vit import ViT, ViTConfig


def encoder(**changes) -> VisionEncoder:
    torch.manual_seed(0)
    sizes = {"image_size": 12, "patch_size": 4, "width": 24, "depth": 1, "heads": 2, "mlp_dim": 20, **changes}
    return VisionEncoder(ViT(ViTConfig(**sizes))).eval()


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(256, (*shape, 12, 12, 3), dtype=torch.uint8)


@pytest.mark.parametrize("position", ["sincos", "learned", "rope"])
@torch.no_grad()
def test_what_is_loaded_encodes_as_what_was_saved(position: str, tmp_path: Path) -> None:
    saved = encoder(position=position)
    saved.save(tmp_path, metadata={"objective": "test"})
    loaded = load_encoder(tmp_path)
    pixels = pictures(2, 3)
    assert torch.equal(loaded.encode(pixels), saved.encode(pixels))
    assert loaded.metadata == {"objective": "test"}
    assert loaded.digest() == saved.digest()
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training


@torch.no_grad()
def test_a_latent_is_the_mean_of_a_pictures_tokens() -> None:
    model, pixels = encoder(), pictures(2, 3)
    normal = (pixels / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    truth = model.trunk(normal.view(6, 1, 12, 12, 3)).view(2, 3, 9, 24)
    torch.testing.assert_close(model.encode_tokens(pixels), truth)
    torch.testing.assert_close(model.encode(pixels), truth.mean(2))


@torch.no_grad()
def test_a_trunk_of_clips_sees_a_picture_as_a_still() -> None:
    model, pixels = encoder(frames=6, tubelet=3), pictures(4)
    truth = model.tokens(pixels[:, None].repeat(1, 3, 1, 1, 1))
    torch.testing.assert_close(model.encode_tokens(pixels), truth)


def test_a_digest_tells_weights_sizes_and_colours_apart() -> None:
    one = encoder()
    other = encoder()
    assert one.digest() == other.digest()
    with torch.no_grad():
        other.trunk.norm.weight[3] += 1e-6
    colours = VisionEncoder(one.trunk, colour_mean=(0.5, 0.5, 0.5))
    digests = {one.digest(), other.digest(), encoder(norm_eps=1e-5).digest(), colours.digest()}
    assert len(digests) == 4


def test_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        load_encoder(tmp_path)
    encoder().save(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    content, description = weights.read_bytes(), json.loads(config.read_text())
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="is damaged, or is not the one"):
        load_encoder(tmp_path)
    weights.write_bytes(content)
    for change, message in (
        ({"format": "fastwm.world_model"}, "does not describe a fastwm encoder"),
        ({"version": 9}, "is of version 9"),
        ({"config": {**description["config"], "depth": 2}}, r"tensors are missing: trunk\.blocks\.1"),
        ({"config": {**description["config"], "colour": 2}}, r"unknown configuration fields \['colour'\]"),
        ({"model_type": "clip"}, "model_type is 'clip'"),
    ):
        config.write_text(json.dumps({**description, **change}))
        with pytest.raises(ValueError, match=message):
            load_encoder(tmp_path)
    config.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        load_encoder(tmp_path)


def test_bad_pixels_are_named() -> None:
    with pytest.raises(TypeError, match=r"pixels has dtype torch.float32; expected torch.uint8"):
        encoder().encode(torch.zeros(2, 12, 12, 3))
    with pytest.raises(ValueError, match=r"expected \[B, frames, 12, 12, 3\]"):
        encoder().encode(torch.zeros(2, 12, 16, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="colour_std is"):
        VisionEncoder(encoder().trunk, colour_std=(0.1, 0.0, 0.1))


@torch.no_grad()
def test_hugging_face_directories_are_encoders(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    image = transformers.IJepaModel(
        transformers.IJepaConfig(
            hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20, image_size=12, patch_size=4
        )
    ).eval()  # fmt: skip
    clip = transformers.VJEPA2Model(
        transformers.VJEPA2Config(
            hidden_size=24, num_hidden_layers=1, num_attention_heads=2, crop_size=12, patch_size=4, frames_per_clip=4,
            pred_hidden_size=24, pred_num_hidden_layers=1, pred_num_attention_heads=2,
        )
    ).eval()  # fmt: skip
    image.save_pretrained(tmp_path / "image")
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "image" / "preprocessor_config.json").write_text(json.dumps(colours))
    clip.save_pretrained(tmp_path / "clip")

    pixels = pictures(3)
    normal = (pixels / 255 - torch.tensor(colours["image_mean"])) / torch.tensor(colours["image_std"])
    truth = image(normal.permute(0, 3, 1, 2)).last_hidden_state
    torch.testing.assert_close(
        load_encoder(tmp_path / "image").encode_tokens(pixels), truth, rtol=1e-5, atol=1e-5
    )
    normal = (pixels / 255 - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    stills = normal.permute(0, 3, 1, 2)[:, None].repeat(1, 2, 1, 1, 1)
    truth = clip.get_vision_features(stills)
    torch.testing.assert_close(
        load_encoder(tmp_path / "clip").encode_tokens(pixels), truth, rtol=1e-5, atol=1e-5
    )

    (tmp_path / "image" / "preprocessor_config.json").write_text("{}")
    with pytest.raises(ValueError, match="image_mean or image_std cannot be read"):
        load_encoder(tmp_path / "image")


@torch.no_grad()
def test_colours_of_the_data_replace_imagenets() -> None:
    model, pixels = encoder(), pictures(3)
    model.set_colours(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.0, 0.7]))
    assert model.colour_std.tolist() == pytest.approx([0.5, 1.0, 0.7])
    normal = (pixels / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 1.0, 0.7])
    torch.testing.assert_close(model.encode_tokens(pixels), model.trunk(normal[:, None]))
    with pytest.raises(ValueError, match="expected three finite numbers each"):
        model.set_colours(torch.tensor([0.1, torch.nan, 0.3]), torch.ones(3))
