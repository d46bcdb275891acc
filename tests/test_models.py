"""World models: the predictor against its equations in numpy, rollouts against a loop, bad input."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import every_model, random_model, small_config
from torch import nn

from fastwm.models import AdaLNPredictor, Projector, ViTEncoder, WorldModel, WorldModelConfig

# The AdaLN predictor


def layer_norm(x: np.ndarray, eps: float, affine: nn.LayerNorm | None = None) -> np.ndarray:
    x = (x - x.mean()) / np.sqrt(x.var() + eps)
    return x if affine is None else x * as_numpy(affine.weight) + as_numpy(affine.bias)


def as_numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def linear(layer: nn.Module, x: np.ndarray) -> np.ndarray:
    if isinstance(layer, nn.Identity):
        return x
    bias = 0 if layer.bias is None else as_numpy(layer.bias)
    return as_numpy(layer.weight) @ x + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def adaln_in_numpy(
    predictor: AdaLNPredictor, heads: int, latents: np.ndarray, conditions: np.ndarray
) -> np.ndarray:
    """latents [T, E], conditions [T, E] -> [T, E], token by token and head by head, in float64."""
    tokens = [
        linear(predictor.input_proj, z + p)
        for z, p in zip(latents, as_numpy(predictor.position), strict=False)
    ]
    conditions = [linear(predictor.cond_proj, c) for c in conditions]
    for block in predictor.blocks:
        attention, mlp = block.attention, block.mlp
        modulations = [linear(block.modulation[1], c / (1 + np.exp(-c))) for c in conditions]
        parts = [np.split(modulation, 6) for modulation in modulations]
        queries, keys, values = [], [], []
        for x, (shift, scale, *_) in zip(tokens, parts, strict=True):
            hidden = layer_norm(layer_norm(x, 1e-6) * (1 + scale) + shift, 1e-5, attention.norm)
            q, k, v = np.split(linear(attention.qkv, hidden), 3)
            queries.append(np.split(q, heads))
            keys.append(np.split(k, heads))
            values.append(np.split(v, heads))
        for t in range(len(tokens)):
            mixed = []
            for head in range(heads):
                scores = np.array([queries[t][head] @ keys[s][head] for s in range(t + 1)])
                weights = np.exp(scores / math.sqrt(len(keys[0][head])))
                weights /= weights.sum()
                mixed.append(sum(w * values[s][head] for s, w in enumerate(weights)))
            _, _, gate, shift, scale, mlp_gate = parts[t]
            x = tokens[t] + gate * linear(attention.out, np.concatenate(mixed))
            hidden = layer_norm(layer_norm(x, 1e-6) * (1 + scale) + shift, 1e-5, mlp.norm)
            tokens[t] = x + mlp_gate * linear(mlp.fc2, gelu(linear(mlp.fc1, hidden)))
    return np.stack([linear(predictor.output_proj, layer_norm(x, 1e-5, predictor.norm)) for x in tokens])


@pytest.mark.parametrize("width", [10, 12], ids=["width < E", "width = E"])
@pytest.mark.parametrize("frames", [1, 2, 3])
def test_adaln_predictor_follows_its_equations(width: int, frames: int) -> None:
    predictor = random_model(width=width).predictor.double()
    generator = torch.Generator().manual_seed(frames)
    latents, conditions = torch.randn(2, 2, frames, 12, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        found = predictor(latents, conditions)
    for i in range(2):
        truth = adaln_in_numpy(predictor, 3, latents[i].numpy(), conditions[i].numpy())
        np.testing.assert_allclose(found[i].numpy(), truth, rtol=1e-10, atol=1e-12)


@pytest.mark.peers
@pytest.mark.parametrize("width", [10, 12])
def test_adaln_predictor_equals_stable_worldmodel(width: int) -> None:
    peer_module = pytest.importorskip("stable_worldmodel.wm.lewm.module")
    ours = random_model(width=width).predictor
    peer = peer_module.Predictor(
        num_frames=3, depth=2, heads=3, mlp_dim=7, input_dim=12, hidden_dim=width, dim_head=5
    ).eval()
    tensors = {"pos_embedding": ours.position[None]}
    names = {
        "norm": "transformer.norm",
        "input_proj": "transformer.input_proj",
        "cond_proj": "transformer.cond_proj",
        "output_proj": "transformer.output_proj",
    }
    for i in range(2):
        block = f"transformer.layers.{i}"
        names |= {
            f"blocks.{i}.modulation": f"{block}.adaLN_modulation",
            f"blocks.{i}.attention.norm": f"{block}.attn.norm",
            f"blocks.{i}.attention.qkv": f"{block}.attn.to_qkv",
            f"blocks.{i}.attention.out": f"{block}.attn.to_out.0",
            f"blocks.{i}.mlp.norm": f"{block}.mlp.net.0",
            f"blocks.{i}.mlp.fc1": f"{block}.mlp.net.1",
            f"blocks.{i}.mlp.fc2": f"{block}.mlp.net.4",
        }
    for our_name, peer_name in names.items():
        for suffix, tensor in ours.get_submodule(our_name).state_dict().items():
            tensors[f"{peer_name}.{suffix}"] = tensor
    peer.load_state_dict(tensors)
    for frames in (1, 2, 3):
        latents, conditions = torch.randn(2, 5, frames, 12)
        with torch.no_grad():
            torch.testing.assert_close(ours(latents, conditions), peer(latents, conditions))


@every_model
def test_predictions_do_not_depend_on_later_pairs(changes: dict) -> None:
    model = random_model(**changes)
    window = model.config.window
    latents, actions = torch.randn(3, window, 12), torch.randn(3, window, 2)
    with torch.no_grad():
        before = model.predict(latents, actions)
        for t in range(window - 1):
            other_latents, other_actions = latents.clone(), actions.clone()
            other_latents[:, t + 1 :] += 1
            other_actions[:, t + 1 :] += 1
            after = model.predict(other_latents, other_actions)
            torch.testing.assert_close(after[:, : t + 1], before[:, : t + 1])
            assert (after[:, t + 1] - before[:, t + 1]).abs().min() > 0


def test_a_new_residual_model_predicts_no_change_and_the_paper_form_does_not() -> None:
    latents, actions = torch.randn(4, 3, 12), torch.randn(4, 3, 2)
    residual = WorldModel(small_config())
    torch.testing.assert_close(residual.predict(latents, actions), latents, rtol=0, atol=0)
    paper = WorldModel(small_config(residual=False))
    assert (paper.predict(latents, actions) - latents).abs().mean() > 0.1


# Rollouts


@every_model
@pytest.mark.parametrize("context_frames", [1, 2, 3])
def test_rollout_equals_one_candidate_at_a_time(changes: dict, context_frames: int) -> None:
    model = random_model(**changes)
    window = model.config.window
    if context_frames > window:
        pytest.skip("context is longer than the window")
    batch, candidates, horizon = 2, 3, 5
    context = torch.randn(batch, context_frames, 12)
    past = torch.randn(batch, context_frames - 1, 2)
    actions = torch.randn(batch, candidates, horizon, 2)
    with torch.no_grad():
        found = model.rollout(context, actions, past)
        for b in range(batch):
            for s in range(candidates):
                latents, taken = context[b].clone(), past[b].clone()
                for t in range(horizon):
                    taken = torch.cat([taken, actions[b, s, t : t + 1]])
                    following = model.predict(latents[None, -window:], taken[None, -window:])[0, -1:]
                    torch.testing.assert_close(found[b, s, t], following[0])
                    latents = torch.cat([latents, following])


def test_rollout_without_past_actions_means_a_context_of_one_frame() -> None:
    model = random_model()
    context, actions = torch.randn(2, 1, 12), torch.randn(2, 3, 4, 2)
    torch.testing.assert_close(
        model.rollout(context, actions), model.rollout(context, actions, torch.empty(2, 0, 2))
    )


@every_model
def test_actions_are_normalised_by_the_saved_statistics(changes: dict) -> None:
    model = random_model(**changes)
    latents, actions = torch.randn(3, 1, 12), torch.randn(3, 1, 2)
    found = model.predict(latents, actions)
    normalised = (actions - model.action_mean) / model.action_std
    model.set_action_statistics(torch.zeros(2), torch.ones(2))
    torch.testing.assert_close(model.predict(latents, normalised), found)


def test_an_action_that_never_changes_is_not_divided_by_zero() -> None:
    model = random_model()
    model.set_action_statistics(torch.tensor([0.5, 0.5]), torch.tensor([2.0, 0.0]))
    assert model.action_std.tolist() == [2.0, 1.0]


# Encoders


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 3), max_size=3), st.integers(0, 2**16))
def test_encoding_does_not_depend_on_how_images_are_batched(leading: list[int], seed: int) -> None:
    model = random_model()
    pixels = torch.randint(0, 256, (*leading, 16, 16, 3), generator=torch.Generator().manual_seed(seed))
    pixels = pixels.to(torch.uint8)
    with torch.no_grad():
        together = model.encode(pixels)
        alone = torch.cat([model.encode(image) for image in pixels.reshape(-1, 16, 16, 3)])
    torch.testing.assert_close(together, alone.view(*leading, 12))


def test_an_encoder_sees_channels_first_images_from_minus_one_to_one() -> None:
    model = random_model()
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0].clone()))
    pixels = torch.randint(0, 256, (2, 16, 16, 3), dtype=torch.uint8)
    model.encode(pixels)
    truth = (pixels.double() / 127.5 - 1).permute(0, 3, 1, 2)
    torch.testing.assert_close(seen[0].double(), truth, rtol=0, atol=1e-7)


def test_vit_equals_torch_pre_norm_layers() -> None:
    encoder = ViTEncoder(image_size=16, patch_size=8, depth=2).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        x = encoder.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([encoder.cls.expand(3, -1, -1), x], dim=1) + encoder.position
        for block in encoder.blocks:
            layer = nn.TransformerEncoderLayer(
                192,
                3,
                768,
                dropout=0,
                activation="gelu",
                layer_norm_eps=1e-12,
                batch_first=True,
                norm_first=True,
            )
            layer.load_state_dict(
                {
                    "self_attn.in_proj_weight": block.qkv.weight,
                    "self_attn.in_proj_bias": block.qkv.bias,
                    "self_attn.out_proj.weight": block.out.weight,
                    "self_attn.out_proj.bias": block.out.bias,
                    "linear1.weight": block.fc1.weight,
                    "linear1.bias": block.fc1.bias,
                    "linear2.weight": block.fc2.weight,
                    "linear2.bias": block.fc2.bias,
                    **{f"norm1.{k}": v for k, v in block.norm1.state_dict().items()},
                    **{f"norm2.{k}": v for k, v in block.norm2.state_dict().items()},
                }
            )
            x = layer(x)
        truth = nn.functional.layer_norm(x[:, 0], (192,), encoder.norm.weight, encoder.norm.bias, eps=1e-12)
        torch.testing.assert_close(encoder(images), truth, rtol=1e-4, atol=1e-5)


def test_the_paper_preset_has_the_published_sizes() -> None:
    with torch.device("meta"):
        model = WorldModel(WorldModelConfig.preset("paper", action_dim=10))
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    assert round(sizes["encoder"] / 1e6, 1) == 5.5
    assert round(sizes["predictor"] / 1e6, 1) == 10.8
    assert model.encoder.position.shape == (1, 257, 192)


def test_projector_normalises_over_every_leading_axis() -> None:
    projector = Projector(5, 7, 3).train()
    x = torch.randn(4, 6, 5)
    hidden = projector.fc1(x.reshape(24, 5))
    hidden = (hidden - hidden.mean(0)) / torch.sqrt(hidden.var(0, unbiased=False) + projector.norm.eps)
    truth = projector.fc2(nn.functional.gelu(hidden)).view(4, 6, 3)
    torch.testing.assert_close(projector(x), truth)


@every_model
def test_every_parameter_learns(changes: dict) -> None:
    model = random_model(**changes).train()
    pixels = torch.randint(0, 256, (8, 2, 16, 16, 3), dtype=torch.uint8)
    latents = model.encode(pixels)
    frames = model.config.window if model.config.window < 2 else 2
    predicted = model.predict(latents[:, :frames], torch.randn(8, frames, 2))
    (predicted - latents[:, -frames:]).square().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    unused = {"predictor.position"} if changes.get("predictor") == "mlp" else set()
    assert set(still) <= unused


# Configurations and bad input


@settings(max_examples=50, deadline=None)
@given(
    st.builds(
        WorldModelConfig,
        action_dim=st.sampled_from([2, 4, 10]),
        action_block=st.sampled_from([1, 2]),
        image_size=st.sampled_from([16, 64, 224]),
        embed_dim=st.integers(1, 512),
        predictor=st.sampled_from(["adaln", "mlp"]),
        window=st.integers(1, 9),
        dropout=st.floats(0, 0.99),
    )
)
def test_a_configuration_survives_json(config: WorldModelConfig) -> None:
    assert WorldModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_dim": 0}, "action_dim is 0"),
        ({"action_dim": 3, "action_block": 2}, "action_dim is 3; expected a multiple of 2"),
        ({"embed_dim": 2.5}, "embed_dim is 2.5"),
        ({"depth": True}, "depth is True"),
        ({"image_size": 20}, "image_size is 20; expected a multiple of 16"),
        ({"encoder": "vit_tiny", "image_size": 16, "patch_size": 14}, "expected a multiple of 14"),
        ({"encoder": "resnet"}, "encoder is 'resnet'"),
        ({"predictor": "gru"}, "predictor is 'gru'"),
        ({"predictor": "mlp", "residual": False}, "always residual"),
        ({"residual": 1}, "residual is 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"version": 0}, "version is 0"),
    ],
)
def test_a_wrong_configuration_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ValueError, match="'mlp', 'paper', 'small'"):
        WorldModelConfig.preset("large", action_dim=2)


def zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(zeros(2, 3, 16, 16).byte()), r"pixels has shape \[2, 3, 16, 16\]"),
        (lambda m: m.encode(zeros(16, 3).byte()), r"pixels has shape \[16, 3\]; expected \[..., 16, 16, 3\]"),
        (lambda m: m.embed_actions(zeros(4, 3)), r"actions has shape \[4, 3\]; expected \[..., 2\]"),
        (lambda m: m.predict(zeros(4, 12), zeros(4, 2)), r"latents has shape \[4, 12\]"),
        (lambda m: m.predict(zeros(4, 4, 12), zeros(4, 4, 2)), r"expected \[B, 1..3 frames, 12\]"),
        (lambda m: m.predict(zeros(4, 2, 12), zeros(4, 3, 2)), r"actions .* expected \[4, 2, 2\]"),
        (lambda m: m.rollout(zeros(1, 4, 12), zeros(1, 2, 3, 2)), "context has shape"),
        (lambda m: m.rollout(zeros(1, 1, 12), zeros(2, 2, 3, 2)), "actions has shape"),
        (lambda m: m.rollout(zeros(1, 1, 12), zeros(1, 2, 0, 2)), "T >= 1"),
        (lambda m: m.rollout(zeros(1, 2, 12), zeros(1, 2, 3, 2)), "past_actions is missing"),
        (lambda m: m.rollout(zeros(1, 2, 12), zeros(1, 2, 3, 2), zeros(1, 2, 2)), r"expected \[1, 1, 2\]"),
        (lambda m: m.set_action_statistics(zeros(3), zeros(3)), r"mean has shape \[3\]"),
        (lambda m: m.set_action_statistics(zeros(2), zeros(2) / 0), "std is not finite"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(random_model())


def test_images_must_be_bytes() -> None:
    with pytest.raises(TypeError, match=r"pixels has dtype torch.float32; expected torch.uint8"):
        random_model().encode(zeros(2, 16, 16, 3))
