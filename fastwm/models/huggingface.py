"""Weights in the layouts of Hugging Face's I-JEPA and V-JEPA 2, as modules of ours. transformers is not needed.

Layouts are those of `IJepaModel` (before and since transformers 5) and `VJEPA2Model`. What a configuration asks for and a trunk
has no field for is refused by name: a model taken for what it is not is worse than one refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from fastwm.models.mask_predictor import MaskPredictor, MaskPredictorConfig
from fastwm.models.storage import check_tensors
from fastwm.models.vit import ViT, ViTConfig

Tensors = Mapping[str, torch.Tensor]

# Fields that say nothing about what a trunk computes from an input.
_ABOUT = {
    "architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "initializer_range", "_name_or_path",
    "use_cache", "output_attentions", "output_hidden_states", "return_dict", "id2label", "label2id", "problem_type",
    "tie_word_embeddings", "chunk_size_feed_forward", "is_encoder_decoder", "_attn_implementation", "attn_implementation",
    "pooler_output_size", "pooler_act", "num_pooler_layers", "attention_dropout", "pred_zero_init_mask_tokens", "image_mean",
    "image_std", "encoder_stride",
}  # fmt: skip
_DEFAULTS = {
    "ijepa": {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "layer_norm_eps": 1e-12,
        "image_size": 224, "patch_size": 16, "num_channels": 3, "qkv_bias": True,
    },
    "vjepa2": {
        "patch_size": 16, "crop_size": 256, "frames_per_clip": 64, "tubelet_size": 2, "hidden_size": 1024, "in_chans": 3,
        "num_attention_heads": 16, "num_hidden_layers": 24, "drop_path_rate": 0.0, "mlp_ratio": 4.0,
        "layer_norm_eps": 1e-6, "qkv_bias": True, "attention_probs_dropout_prob": 0.0, "hidden_act": "gelu",
        "pred_hidden_size": 384, "pred_num_attention_heads": 12, "pred_num_hidden_layers": 12, "pred_num_mask_tokens": 10,
        "pred_mlp_ratio": 4.0,
    },
}  # fmt: skip

# Ours <- theirs, within a block.
_IJEPA_BLOCK = {
    "layernorm_before": "norm1", "layernorm_after": "norm2", "attention.o_proj": "out", "mlp.fc1": "fc1", "mlp.fc2": "fc2",
    "attention.q_proj": "q", "attention.k_proj": "k", "attention.v_proj": "v",
    # before transformers 5, and in files written since
    "attention.output.dense": "out", "intermediate.dense": "fc1", "output.dense": "fc2", "attention.attention.query": "q",
    "attention.attention.key": "k", "attention.attention.value": "v",
}  # fmt: skip
_VJEPA_BLOCK = {
    "norm1": "norm1", "norm2": "norm2", "attention.proj": "out", "mlp.fc1": "fc1", "mlp.fc2": "fc2",
    "attention.query": "q", "attention.key": "k", "attention.value": "v",
}  # fmt: skip


def load_ijepa(source: str | os.PathLike[str] | tuple[Mapping[str, Any], Tensors]) -> ViT:
    """The encoder of an `IJepaModel`: a directory with config.json and model.safetensors, or (configuration, state_dict).

    Positions become learned ones: the published table is fixed, but a file may hold any. A pooler and a classifier are left
    aside. ValueError where a file, a field or a tensor is missing, unknown or of another size.
    """
    config, tensors, where = _read(source, "ijepa")
    _only(where, config, hidden_act="gelu", num_channels=3)
    sizes = ViTConfig(
        image_size=_side(where, "image_size", config["image_size"]),
        patch_size=_side(where, "patch_size", config["patch_size"]),
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_dim=config["intermediate_size"],
        position="learned",
        qkv_bias=config["qkv_bias"],
        norm_eps=float(config["layer_norm_eps"]),
    )
    found = _renamed(
        {_without_prefix(name, "ijepa."): tensor for name, tensor in tensors.items()},
        blocks=r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)",
        parts=_IJEPA_BLOCK,
        others={
            "embeddings.patch_embeddings.projection.weight": "patches.weight",
            "embeddings.patch_embeddings.projection.bias": "patches.bias",
            "embeddings.position_embeddings": "position",
            "layernorm.weight": "norm.weight",
            "layernorm.bias": "norm.bias",
        },
        aside=("pooler.", "classifier.", "embeddings.mask_token"),
    )
    found["patches.weight"] = _flat_kernel(where, found, "patches.weight")
    if "position" in found:
        found["position"] = found["position"].squeeze(0)
    return _filled(where, ViT(sizes), found)


def load_vjepa2(
    source: str | os.PathLike[str] | tuple[Mapping[str, Any], Tensors],
) -> tuple[ViT, MaskPredictor | None]:
    """Encoder and predictor of a `VJEPA2Model`, as `load_ijepa` has them; None where the weights hold no predictor."""
    config, tensors, where = _read(source, "vjepa2")
    _only(where, config, hidden_act="gelu", in_chans=3)
    if config["frames_per_clip"] % config["tubelet_size"]:
        raise ValueError(
            f"{where}: frames_per_clip is {config['frames_per_clip']}; expected a multiple of tubelet_size"
        )
    sizes = ViTConfig(
        image_size=config["crop_size"],
        patch_size=_side(where, "patch_size", config["patch_size"]),
        frames=config["frames_per_clip"],
        tubelet=config["tubelet_size"],
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        mlp_dim=int(config["hidden_size"] * config["mlp_ratio"]),
        position="rope",
        qkv_bias=config["qkv_bias"],
        norm_eps=float(config["layer_norm_eps"]),
    )
    found = _renamed(
        {_without_prefix(name, "vjepa2."): tensor for name, tensor in tensors.items()},
        blocks=r"encoder\.layer\.(\d+)\.(.+)\.(weight|bias)",
        parts=_VJEPA_BLOCK,
        others={
            "encoder.embeddings.patch_embeddings.proj.weight": "patches.weight",
            "encoder.embeddings.patch_embeddings.proj.bias": "patches.bias",
            "encoder.layernorm.weight": "norm.weight",
            "encoder.layernorm.bias": "norm.bias",
        },
        aside=("pooler.", "classifier.", "predictor."),
    )
    found["patches.weight"] = _flat_kernel(where, found, "patches.weight")
    encoder = _filled(where, ViT(sizes), found)

    theirs = {
        name: tensor
        for key, tensor in tensors.items()
        if (name := _without_prefix(key, "vjepa2.")).startswith("predictor.")
    }
    if not theirs:
        return encoder, None
    predictor = MaskPredictor(
        MaskPredictorConfig(
            embed_dim=sizes.width,
            grid=sizes.grid,
            width=config["pred_hidden_size"],
            depth=config["pred_num_hidden_layers"],
            heads=config["pred_num_attention_heads"],
            mlp_dim=int(config["pred_hidden_size"] * config["pred_mlp_ratio"]),
            mask_tokens=config["pred_num_mask_tokens"],
            position="rope",
            qkv_bias=config["qkv_bias"],
            norm_eps=float(config["layer_norm_eps"]),
        )
    )
    found = _renamed(
        theirs,
        blocks=r"predictor\.layer\.(\d+)\.(.+)\.(weight|bias)",
        parts=_VJEPA_BLOCK,
        others={
            "predictor.embeddings.predictor_embeddings.weight": "project_in.weight",
            "predictor.embeddings.predictor_embeddings.bias": "project_in.bias",
            "predictor.embeddings.mask_tokens": "mask_tokens",
            "predictor.layernorm.weight": "norm.weight",
            "predictor.layernorm.bias": "norm.bias",
            "predictor.proj.weight": "project_out.weight",
            "predictor.proj.bias": "project_out.bias",
        },
        aside=(),
    )
    if "mask_tokens" in found:
        found["mask_tokens"] = found["mask_tokens"].flatten(0, 2)
    return encoder, _filled(where, predictor, found)


def _read(
    source: str | os.PathLike[str] | tuple[Mapping[str, Any], Tensors], kind: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor], str]:
    """Configuration with the defaults of `kind` filled in, tensors, and what to call them in errors."""
    if isinstance(source, tuple):
        config, tensors, where = dict(source[0]), dict(source[1]), "state_dict"
    else:
        config, tensors, where = *_read_directory(Path(source)), str(source)
    if (came := config.get("model_type", kind)) != kind:
        raise ValueError(f"{where}: model_type is {came!r}; expected {kind!r}")
    defaults = _DEFAULTS[kind]
    if unknown := sorted(set(config) - set(defaults) - _ABOUT):
        raise ValueError(f"{where}: configuration fields {unknown} are not known for {kind}")
    return {**defaults, **config}, tensors, where


def _read_directory(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    for name in ("config.json", "model.safetensors"):
        if not (path / name).is_file():
            raise ValueError(f"{path} holds no Hugging Face model in one safetensors file: {name} is missing")
    try:
        config = json.loads((path / "config.json").read_bytes())
        tensors = safetensors.torch.load_file(path / "model.safetensors")
    except (ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path / 'config.json'} is damaged: expected an object")
    return config, tensors


def _only(where: str, config: Mapping[str, Any], **expected: Any) -> None:
    for name, value in expected.items():
        if config[name] != value:
            raise ValueError(f"{where}: {name} is {config[name]!r}; a trunk of ours has {value!r}")


def _side(where: str, name: str, value: Any) -> int:
    """One side of a square that may be given as a pair."""
    sides = set(value) if isinstance(value, (list, tuple)) else {value}
    if len(sides) != 1:
        raise ValueError(f"{where}: {name} is {value!r}; expected a square")
    return int(sides.pop())


def _without_prefix(name: str, prefix: str) -> str:
    """The name in a bare model, of one inside a classifier."""
    return name.removeprefix(prefix)


def _renamed(
    tensors: Tensors,
    *,
    blocks: str,
    parts: Mapping[str, str],
    others: Mapping[str, str],
    aside: tuple[str, ...],
) -> dict[str, torch.Tensor]:
    """Their tensors under our names, queries, keys and values joined; unknown names are kept, to be refused as such."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.startswith(aside) and aside:
            continue
        match = re.fullmatch(blocks, name)
        if match and match[2] in parts:
            found[f"blocks.{match[1]}.{parts[match[2]]}.{match[3]}"] = tensor
        else:
            found[others.get(name, name)] = tensor
    for query in [name for name in found if re.fullmatch(r"blocks\.\d+\.q\.(weight|bias)", name)]:
        head, _, kind = query.rpartition(".q.")
        trio = [f"{head}.{letter}.{kind}" for letter in "qkv"]
        if all(name in found for name in trio):
            found[f"{head}.qkv.{kind}"] = torch.cat([found.pop(name) for name in trio])
    return found


def _flat_kernel(where: str, found: Tensors, name: str) -> torch.Tensor:
    """A convolution's kernel [E, 3, (tubelet,) patch, patch] as a Linear's weight over channels-last patches."""
    if name not in found:
        raise ValueError(f"{where}: the patch embedding is missing")
    kernel = found[name]
    return kernel.movedim(1, -1).flatten(1)


def _filled(where: str, module: Any, found: dict[str, torch.Tensor]) -> Any:
    """`module` in evaluation mode with the weights `found`, in float32."""
    found = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}
    check_tensors(where, expected=module.state_dict(), found=found)
    module.load_state_dict(found)
    return module.eval()
