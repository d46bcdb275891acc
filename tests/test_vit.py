"""The trunk, its positions and the predictor of masked tokens against formulas; tests/test_huggingface.py has the oracles."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastwm.models.mask_predictor import MaskPredictor, MaskPredictorConfig
from fastwm.models.positions import coordinates, rotary_angles, rotate, sincos_table
from fastwm.models.vit import ViT, ViTConfig

SMALL = {"image_size": 12, "patch_size": 4, "width": 24, "depth": 2, "heads": 2, "mlp_dim": 20}


def small(**changes) -> ViT:
    torch.manual_seed(0)
    return ViT(ViTConfig.from_dict({**SMALL, **changes})).eval()


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_places_count_along_columns_then_rows_then_time(time: int, rows: int, columns: int) -> None:
    places = torch.arange(time * rows * columns)
    truth = np.stack(np.unravel_index(places.numpy(), (time, rows, columns)), axis=-1)
    np.testing.assert_array_equal(coordinates(places, (time, rows, columns)).numpy(), truth)


def test_sincos_positions_are_their_formula() -> None:
    table = sincos_table((1, 3, 5), 16)
    for place, found in enumerate(table.double().numpy()):
        row, column = divmod(place, 5)
        frequency = 10_000.0 ** (-np.arange(4) / 4)
        parts = [np.sin(row * frequency), np.cos(row * frequency)]
        parts += [np.sin(column * frequency), np.cos(column * frequency)]
        np.testing.assert_allclose(found, np.concatenate(parts), atol=1e-6)


@pytest.mark.parametrize("width", [12, 13, 16, 20, 96])
def test_sincos_positions_tell_all_tokens_of_a_clip_apart(width: int) -> None:
    table = sincos_table((4, 3, 5), width)
    assert table.shape == (60, width)
    assert torch.cdist(table, table).add(10 * torch.eye(60)).min() > 0.05


def test_rotary_positions_turn_nothing_at_the_origin_and_leave_the_rest_of_a_head() -> None:
    x = torch.randn(1, 2, 4, 13)
    cosines, sines = rotary_angles(torch.tensor([0, 1, 7, 59])[None, None], (4, 3, 5), 13)
    found = rotate(x, cosines, sines)
    assert torch.equal(found[:, :, 0], x[:, :, 0])
    assert torch.equal(found[..., 12:], x[..., 12:])
    assert torch.equal(found[:, :, 1, :8], x[:, :, 1, :8])  # place 1 is one column on: time and row are 0
    assert not torch.equal(found[:, :, 1, 8:12], x[:, :, 1, 8:12])


@pytest.mark.parametrize("position", ["sincos", "learned", "rope"])
@torch.no_grad()
def test_keeping_every_token_in_any_order_changes_nothing(position: str) -> None:
    model = small(position=position, frames=4, tubelet=2)
    clips = torch.randn(2, 4, 12, 12, 3)
    order = torch.stack([torch.randperm(18), torch.randperm(18)])
    truth = model(clips).gather(1, order[..., None].expand(-1, -1, 24))
    torch.testing.assert_close(model(clips, order), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("position", ["sincos", "rope"])
@torch.no_grad()
def test_hidden_tokens_are_not_seen(position: str) -> None:
    model = small(position=position)
    images = torch.randn(1, 1, 12, 12, 3)
    keep = torch.tensor([[0, 2, 7]])
    others = images.clone()
    others[:, :, :4, 4:8] = torch.nan  # the token at place 1
    assert torch.equal(model(others, keep), model(images, keep))
    assert model(others).isnan().all()


@torch.no_grad()
def test_a_token_is_its_own_patch_at_its_own_place() -> None:
    model = small(depth=1)
    torch.nn.init.zeros_(model.blocks[0].out.weight)
    torch.nn.init.zeros_(model.blocks[0].fc2.weight)
    images = torch.randn(2, 1, 12, 12, 3)
    found = model(images).view(2, 3, 3, 24)
    patch = images[:, 0, 4:8, 8:12].reshape(2, 48)
    truth = model.norm(model.patches(patch) + model.position[5])
    torch.testing.assert_close(found[:, 1, 2], truth)


def test_every_parameter_has_a_gradient() -> None:
    for position in ("sincos", "learned", "rope"):
        model = small(position=position)
        model(torch.randn(2, 1, 12, 12, 3)).square().mul(torch.arange(24)).sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, (position, name)
            assert parameter.grad.abs().sum() > 0, (position, name)


def predictor(**changes) -> MaskPredictor:
    torch.manual_seed(0)
    sizes = {"width": 16, "depth": 2, "heads": 2, "mlp_dim": 20, "mask_tokens": 2, **changes}
    return MaskPredictor(MaskPredictorConfig(embed_dim=24, grid=(1, 3, 3), **sizes)).eval()


@pytest.mark.parametrize("position", ["sincos", "learned", "rope"])
@torch.no_grad()
def test_targets_are_predicted_each_by_itself(position: str) -> None:
    model = predictor(position=position)
    context, seen = torch.randn(2, 3, 24), torch.tensor([[0, 1, 2], [2, 4, 6]])
    targets = torch.tensor([[[3, 4], [5, 8]], [[0, 1], [7, 8]]])
    both = model(context, seen, targets)
    for number in (0, 1):
        alone = model(context, seen, targets[:, number : number + 1])[:, 0]
        torch.testing.assert_close(both[:, number], alone, rtol=1e-5, atol=1e-6)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model(context[:, order], seen[:, order], targets), both, rtol=1e-4, atol=1e-5)
    assert (model(context, seen, targets, mask_token=1) - both).abs().max() > 1e-4
    assert (both[:, :, 0] - both[:, :, 1]).abs().max() > 1e-5  # places differ


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: small(image_size=13), "image_size is 13; expected a multiple of patch_size, 4"),
        (lambda: small(frames=3, tubelet=2), "frames is 3; expected a multiple of tubelet, 2"),
        (lambda: small(heads=5), "width is 24; expected a multiple of heads, 5"),
        (lambda: small(heads=6, position="rope"), "width / heads is 4"),
        (lambda: small(position="alibi"), "position is 'alibi'"),
        (lambda: small(depth=0), "depth is 0"),
        (lambda: small(width=10), "width is 10; positions of sines and cosines need at least 12"),
        (lambda: small(colour=1), r"unknown configuration fields \['colour'\]"),
        (lambda: ViTConfig.preset("huge"), "name is 'huge'"),
        (lambda: small()(torch.zeros(2, 12, 12, 3)), r"images has shape \[2, 12, 12, 3\]"),
        (lambda: small()(torch.zeros(2, 2, 12, 12, 3)), "a multiple of 1 frames, at most 1, 12, 12, 3"),
        (lambda: small()(torch.zeros(2, 1, 16, 12, 3)), r"expected \[B, a multiple of 1 frames"),
        (
            lambda: small()(torch.zeros(1, 1, 12, 12, 3), torch.tensor([[9]])),
            r"keep holds places 9..9; expected 0..8",
        ),
        (
            lambda: small()(torch.zeros(2, 1, 12, 12, 3), torch.tensor([[1]])),
            r"keep has shape \[1, 1\]; expected \[2, n >= 1\]",
        ),
        (lambda: predictor(heads=3), "width is 16; expected a multiple of heads, 3"),
        (lambda: predictor()(*places(context=torch.zeros(1, 2, 23))), r"context has shape \[1, 2, 23\]"),
        (lambda: predictor()(*places(seen=torch.tensor([[0]]))), r"context_places has shape \[1, 1\]"),
        (lambda: predictor()(*places(targets=torch.tensor([[1]]))), r"expected \[B, targets, tokens\]"),
        (lambda: predictor()(*places(), mask_token=2), "mask_token is 2; expected 0..1"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def places(context=None, seen=None, targets=None):
    return (
        torch.zeros(1, 2, 24) if context is None else context,
        torch.tensor([[0, 1]]) if seen is None else seen,
        torch.tensor([[[2, 3]]]) if targets is None else targets,
    )


@pytest.mark.parametrize("name", ["tiny", "tiny-video", "ijepa-h14", "vjepa-l16", "vjepa2-l16"])
def test_presets_are_whole(name: str) -> None:
    config = ViTConfig.preset(name)
    assert ViTConfig.from_dict(dataclasses.asdict(config)) == config
    assert config.tokens == int(np.prod(config.grid))
