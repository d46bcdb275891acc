"""Weights of transformers' own I-JEPA and V-JEPA 2, at random: the same outputs, masks included."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fastwm.models.huggingface import load_ijepa, load_vjepa2

transformers = pytest.importorskip("transformers")


def ijepa(**changes):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 36, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 50, "image_size": 40,
        "patch_size": 8,
    }  # fmt: skip
    return scrambled(transformers.IJepaModel(transformers.IJepaConfig(**{**sizes, **changes})))


def vjepa2(**changes):
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 60, "num_hidden_layers": 2, "num_attention_heads": 3, "crop_size": 40, "patch_size": 8,
        "frames_per_clip": 6, "tubelet_size": 2, "mlp_ratio": 2.5, "pred_hidden_size": 26, "pred_num_attention_heads": 2,
        "pred_num_hidden_layers": 2, "pred_num_mask_tokens": 3, "pred_zero_init_mask_tokens": False, "pred_mlp_ratio": 2,
    }  # fmt: skip
    return scrambled(transformers.VJEPA2Model(transformers.VJEPA2Config(**{**sizes, **changes})))


def scrambled(model):
    """Norms and biases begin as ones and zeros, which would hide a mistake."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def places(batch: int, count: int, tokens: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(tokens, generator=generator)[:count] for _ in range(batch)])


def in_a_directory(model, path: Path) -> Path:
    model.save_pretrained(path)
    return path


def as_state_dict(model, path: Path):
    return model.config.to_dict() if path is None else ({**_plain(model)}, model.state_dict())


def _plain(model) -> dict:
    return json.loads(model.config.to_json_string())


@pytest.mark.parametrize("source", [in_a_directory, as_state_dict])
@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False}, {"patch_size": [4, 4], "layer_norm_eps": 1e-3}])
@torch.no_grad()
def test_ijepa_gives_what_transformers_gives(source, changes: dict, tmp_path: Path) -> None:
    model = ijepa(**changes)
    ours = load_ijepa(source(model, tmp_path))
    images = torch.randn(3, 3, 40, 40)
    truth = model(images).last_hidden_state
    torch.testing.assert_close(ours(images.permute(0, 2, 3, 1)[:, None]), truth, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_kept_tokens_see_each_other_alone() -> None:
    """The oracle's layers on the kept tokens of its embedding, which is what I-JEPA's context encoder computes."""
    model = ijepa()
    ours = load_ijepa((_plain(model), model.state_dict()))
    images, keep = torch.randn(2, 3, 40, 40), places(2, 7, 25, seed=1)
    x = model.embeddings(images).gather(1, keep[..., None].expand(-1, -1, 36))
    for layer in model.layers:
        x = layer(x)
    found = ours(images.permute(0, 2, 3, 1)[:, None], keep)
    torch.testing.assert_close(found, model.layernorm(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("source", [in_a_directory, as_state_dict])
@pytest.mark.parametrize("changes", [{}, {"qkv_bias": False, "layer_norm_eps": 1e-3}, {"tubelet_size": 3}])
@torch.no_grad()
def test_vjepa2_gives_what_transformers_gives(source, changes: dict, tmp_path: Path) -> None:
    model = vjepa2(**changes)
    encoder, predictor = load_vjepa2(source(model, tmp_path))
    clips = torch.randn(2, 6, 3, 40, 40)
    tokens = encoder.config.tokens
    context, target = places(2, 11, tokens, seed=1), places(2, 9, tokens, seed=2)
    theirs = model(clips, context_mask=[context], target_mask=[target])
    latents = encoder(clips.permute(0, 1, 3, 4, 2))
    torch.testing.assert_close(latents, theirs.last_hidden_state, rtol=1e-5, atol=1e-5)
    seen = latents.gather(1, context[..., None].expand(-1, -1, latents.shape[-1]))
    found = predictor(seen, context, target[:, None], mask_token=1)[:, 0]
    torch.testing.assert_close(found, theirs.predictor_output.last_hidden_state, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_vjepa2_on_several_masks_and_on_clips_of_another_length() -> None:
    model = vjepa2()
    encoder, predictor = load_vjepa2((_plain(model), model.state_dict()))
    clips = torch.randn(2, 8, 3, 40, 40)
    latents = encoder(clips.permute(0, 1, 3, 4, 2))
    torch.testing.assert_close(latents, model.encoder(clips).last_hidden_state, rtol=1e-5, atol=1e-5)
    context = places(2, 11, 100, seed=1)
    targets = torch.stack([places(2, 9, 100, seed=s) for s in (2, 3)], dim=1)  # [B, 2, m]
    seen = latents.gather(1, context[..., None].expand(-1, -1, 60))
    found = predictor(seen, context, targets, mask_token=1)
    for number in (0, 1):
        truth = model.predictor(latents, [context], [targets[:, number]]).last_hidden_state
        torch.testing.assert_close(found[:, number], truth, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_classifiers_lend_their_encoders() -> None:
    torch.manual_seed(0)
    bare = ijepa()
    classifier = {f"ijepa.{name}": tensor for name, tensor in bare.state_dict().items()}
    classifier["classifier.weight"] = torch.zeros(2, 36)
    images = torch.randn(1, 1, 40, 40, 3)
    ours = load_ijepa((_plain(bare), classifier))(images)
    torch.testing.assert_close(ours, load_ijepa((_plain(bare), bare.state_dict()))(images))
    encoder_alone = {k: v for k, v in vjepa2().state_dict().items() if k.startswith("encoder.")}
    assert load_vjepa2((_plain(vjepa2()), encoder_alone))[1] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act is 'relu'; a trunk of ours has 'gelu'"),
        ({"num_channels": 4}, "num_channels is 4"),
        ({"image_size": [40, 48]}, r"image_size is \[40, 48\]; expected a square"),
        ({"register_tokens": 4}, r"fields \['register_tokens'\] are not known for ijepa"),
        ({"model_type": "vit"}, "model_type is 'vit'; expected 'ijepa'"),
        (
            {"hidden_size": 48},
            r"tensor position is torch.float32 \[25, 36\]; expected torch.float32 \[25, 48\]",
        ),
        ({"num_hidden_layers": 4}, r"tensors are missing: blocks\.3"),
        ({"num_hidden_layers": 2}, r"tensors are not part of this model: blocks\.2"),
    ],
)
def test_other_configurations_are_refused_by_name(change: dict, message: str) -> None:
    model = ijepa()
    with pytest.raises(ValueError, match=message):
        load_ijepa(({**_plain(model), **change}, model.state_dict()))


def test_unknown_and_missing_tensors_are_named() -> None:
    model = ijepa()
    weights = model.state_dict()
    with pytest.raises(ValueError, match=r"not part of this model: layers\.0\.layer_scale\.weight"):
        load_ijepa((_plain(model), {**weights, "layers.0.layer_scale.weight": torch.ones(3)}))
    with pytest.raises(ValueError, match=r"missing: blocks\.1\.qkv\.weight"):
        load_ijepa(
            (_plain(model), {k: v for k, v in weights.items() if k != "layers.1.attention.k_proj.weight"})
        )
    with pytest.raises(ValueError, match="patch embedding is missing"):
        load_ijepa((_plain(model), {k: v for k, v in weights.items() if "projection" not in k}))


def test_directories_without_a_model_or_with_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        load_ijepa(tmp_path)
    in_a_directory(ijepa(), tmp_path)
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[:-9])
    with pytest.raises(ValueError, match="is damaged"):
        load_ijepa(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is missing"):
        load_vjepa2(tmp_path)


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    model = ijepa()
    halves = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    (tmp_path / "config.json").write_text(json.dumps(_plain(model)))
    safetensors.torch.save_file(halves, tmp_path / "model.safetensors")
    loaded = load_ijepa(tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded.norm.weight, halves["layernorm.weight"].float())
