"""Masks of I-JEPA and V-JEPA: what every draw must satisfy, and how often things happen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastwm.objectives.ema import follow, momentum_at
from fastwm.objectives.masked_prediction import MaskedPredictionLoss
from fastwm.objectives.masks import ClipMasks, ImageMasks


def is_block(places: np.ndarray, columns: int) -> bool:
    """Whether the places fill a rectangle."""
    y, x = places // columns, places % columns
    height, width = y.max() - y.min() + 1, x.max() - x.min() + 1
    return len(set(places.tolist())) == len(places) == height * width


@settings(max_examples=40, deadline=None)
@given(st.integers(7, 16), st.integers(7, 16), st.integers(1, 9), st.integers(0, 2**32))
def test_image_masks(rows: int, columns: int, count: int, seed: int) -> None:
    masks = ImageMasks(rows, columns).draw(np.random.default_rng(seed), count)
    assert masks.context.dtype == masks.targets.dtype == torch.int64
    assert masks.targets.shape[:2] == (count, 4)
    assert masks.context.shape[1] >= 10
    area = masks.targets.shape[2] / (rows * columns)
    assert 0.09 < area < 0.28  # 0.15 to 0.2, rounded to whole tokens
    for context, targets in zip(masks.context.numpy(), masks.targets.numpy(), strict=True):
        assert len(set(context)) == len(context)
        assert (np.diff(context) > 0).all()
        assert 0 <= context[0] <= context[-1] < rows * columns
        assert not set(context) & set(targets.ravel())
        assert all(is_block(target, columns) for target in targets)
        assert targets.max() < rows * columns


def test_blocks_have_the_published_sizes() -> None:
    """Over many batches at 16 x 16 (ViT-H/14 at 224): areas of 0.15 to 0.2, aspects of 0.75 to 1.5, up to rounding."""
    rng = np.random.default_rng(0)
    areas, aspects = [], []
    for _ in range(300):
        target = ImageMasks(16, 16).draw(rng, 1).targets[0, 0].numpy()
        height, width = np.ptp(target // 16) + 1, np.ptp(target % 16) + 1
        areas.append(len(target) / 256)
        aspects.append(height / width)
    assert np.mean(areas) == pytest.approx(0.175, abs=0.01)
    assert 0.13 < min(areas) < 0.155
    assert 0.195 < max(areas) < 0.23
    assert np.mean(aspects) == pytest.approx(1.125, abs=0.05)


def test_places_are_uniform_over_the_picture_and_so_is_what_is_cut() -> None:
    """A context is the same, on average, in all four quarters: it is not cut from one end."""
    seen = np.zeros((10, 10))
    rng = np.random.default_rng(0)
    for _ in range(40):
        np.add.at(seen.reshape(-1), ImageMasks(10, 10).draw(rng, 16).context.numpy().ravel(), 1)
    quarters = [seen[:5, :5].sum(), seen[:5, 5:].sum(), seen[5:, :5].sum(), seen[5:, 5:].sum()]
    assert max(quarters) / min(quarters) < 1.15


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 6), st.integers(6, 14), st.integers(6, 14), st.integers(1, 7), st.integers(0, 2**32),
    st.booleans(),
)  # fmt: skip
def test_clip_masks(time: int, rows: int, columns: int, count: int, seed: int, long: bool) -> None:
    settings_of = ClipMasks.published(time, rows, columns)[long]
    masks = settings_of.draw(np.random.default_rng(seed), count)
    assert masks.targets.shape[:2] == (count, 1)
    for context, target in zip(masks.context.numpy(), masks.targets[:, 0].numpy(), strict=True):
        assert not set(context) & set(target)
        assert len(set(context)) == len(context) >= 1
        assert len(set(target)) == len(target) >= 1
        assert max(context.max(), target.max()) < time * rows * columns
        if count == 1:  # nothing was cut: tubes through all of time, that leave nothing out
            assert len(context) + len(target) == time * rows * columns
            tubes = np.zeros(time * rows * columns, bool)
            tubes[target] = True
            assert (tubes.reshape(time, -1) == tubes.reshape(time, -1)[0]).all()


def test_long_range_hides_more() -> None:
    """V-JEPA's two kinds hide about 0.73 = 1 - 0.85^8 and 0.9 of a clip (edges are hit less, so a little under it)."""
    rng = np.random.default_rng(0)
    short, long = ClipMasks.published(4, 14, 14)
    hidden = [
        np.mean([kind.draw(rng, 1).targets.shape[2] / 784 for _ in range(200)]) for kind in (short, long)
    ]
    assert 0.6 < hidden[0] < 0.75
    assert 0.8 < hidden[1] < 0.95


def test_a_short_block_stays_within_the_clip() -> None:
    masks = ClipMasks(8, 6, 6, blocks=1, duration=0.25).draw(np.random.default_rng(0), 5)
    for target in masks.targets[:, 0].numpy():
        frames = np.unique(target // 36)
        assert len(frames) == 2
        assert frames[1] == frames[0] + 1


def test_draws_are_a_function_of_the_generator() -> None:
    for masks in (ImageMasks(9, 8), ClipMasks(2, 9, 8)):
        one, again, other = (masks.draw(np.random.default_rng(s), 6) for s in (3, 3, 4))
        assert torch.equal(one.context, again.context)
        assert torch.equal(one.targets, again.targets)
        assert one.targets.shape != other.targets.shape or not torch.equal(one.targets, other.targets)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ImageMasks(0, 8), "rows is 0; expected an integer of at least 1"),
        (lambda: ImageMasks(8, 8, target_scale=(0.2, 0.1)), r"target_scale is \(0.2, 0.1\)"),
        (lambda: ImageMasks(8, 8, context_scale=(0.9, 1.1)), "least <= most <= 1"),
        (lambda: ClipMasks(2, 8, 8, duration=0.0), r"duration is \(0.0, 0.0\)"),
        (lambda: ClipMasks(2, 8, 8, aspect=(-1, 2)), "aspect is"),
        (lambda: ImageMasks(3, 3).draw(np.random.default_rng(0), 1), "leave fewer than least_context, 10"),
        (
            lambda: ClipMasks(1, 2, 2, blocks=50, scale=(0.9, 0.9)).draw(np.random.default_rng(0), 1),
            "leave no context",
        ),
        (lambda: MaskedPredictionLoss("l2"), "distance is 'l2'"),
        (
            lambda: MaskedPredictionLoss("l1")(
                torch.zeros(2, 1, 3, 4), torch.zeros(2, 5, 4), torch.zeros(2, 3).long()
            ),
            r"with places \[2, 3\]",
        ),
        (lambda: follow(nn.Linear(2, 2), nn.Linear(2, 2), 1.5), "momentum is 1.5"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# ---- the target and the loss --------------------------------------------------------------------------------------------


def test_momentum_rises_linearly_to_its_last_value() -> None:
    assert momentum_at(1, 11, 0.996) == 0.996
    assert momentum_at(11, 11, 0.996) == 1.0
    assert momentum_at(6, 11, 0.996) == pytest.approx(0.998)
    assert momentum_at(7, 11, 0.99925, 0.99925) == 0.99925
    assert momentum_at(1, 1, 0.9) == 0.9


def test_the_target_is_the_closed_form_of_the_average() -> None:
    torch.manual_seed(0)
    online, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    weights = torch.randn(4, 3)
    truth = target.weight.detach().double().numpy().copy()
    for number, weight in enumerate(weights):
        online.weight.data.copy_(weight)
        online.running_mean.copy_(weight)
        momentum = momentum_at(number + 1, 4, 0.5)
        follow(target, online, momentum)
        truth = momentum * truth + (1 - momentum) * weight.double().numpy()
    np.testing.assert_allclose(target.weight.detach().numpy(), truth, rtol=1e-6)
    assert torch.equal(target.running_mean, weights[-1])


@pytest.mark.parametrize("distance", ["smooth_l1", "l1"])
def test_the_loss_is_its_formula_on_layer_normalised_targets(distance: str) -> None:
    torch.manual_seed(0)
    predicted = torch.randn(2, 3, 4, 5, requires_grad=True)
    targets = (3 * torch.randn(2, 9, 5) + 1).requires_grad_()
    places = torch.randint(9, (2, 3, 4))
    loss = MaskedPredictionLoss(distance)(predicted, targets, places)  # type: ignore[arg-type]
    x = targets.detach().double().numpy()
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    wanted = np.stack([x[b][places[b].numpy()] for b in (0, 1)])
    gap = np.abs(predicted.detach().double().numpy() - wanted)
    truth = np.where(gap < 1, gap**2 / 2, gap - 0.5) if distance == "smooth_l1" else gap
    assert loss.item() == pytest.approx(truth.mean(), rel=1e-5)
    loss.backward()
    assert targets.grad is None
    assert predicted.grad.abs().sum() > 0
