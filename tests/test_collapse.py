"""Collapse measures and the probe on data where the answer is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_data import write_dots

from fastwm.data import Episodes
from fastwm.models.vision import VisionEncoder
from fastwm.models.vit import ViT, ViTConfig
from fastwm.training import collapse
from fastwm.training.collapse import Judged
from fastwm.training.health import linear_probe_r2


def test_spread_of_known_latents() -> None:
    torch.manual_seed(0)
    wide = collapse.measure_spread(torch.randn(4000, 6) * torch.tensor([1.0, 1, 1, 1, 1, 3]))
    assert 5 < wide.effective_rank < 6
    assert wide.std_mean == pytest.approx(8 / 6, rel=0.03)
    assert wide.std_least == pytest.approx(1, rel=0.05)
    line = collapse.measure_spread(torch.randn(100, 1) @ torch.randn(1, 6))
    assert line.effective_rank == pytest.approx(1, abs=1e-3)
    point = collapse.measure_spread(torch.full((100, 6), 2.5))
    assert (point.effective_rank, point.std_mean, point.std_least) == (1.0, 0.0, 0.0)
    with pytest.raises(ValueError, match=r"latents has shape \[1, 6\]"):
        collapse.measure_spread(torch.zeros(1, 6))


def test_more_features_than_frames_give_what_a_ridge_on_the_features_gives() -> None:
    """Against the closed form in numpy: the span's ridge is the full one, its strength scaled by E over n."""
    rng = np.random.default_rng(0)
    features, judged = rng.standard_normal((30, 90)), rng.standard_normal((20, 90))
    weights = rng.standard_normal((90, 2))
    states = (features @ weights).astype(np.float32)
    fit, rest = collapse._in_span(torch.as_tensor(features), torch.as_tensor(judged))
    assert fit.shape[1] <= 30
    found = linear_probe_r2(fit, states, rest, judged @ weights, ridge=0.1)
    x = features - features.mean(0)
    strength = 0.1 * (x**2).sum() / fit.shape[1]
    solution = np.linalg.solve(x.T @ x + strength * np.eye(90), x.T @ (states - states.mean(0)))
    error = judged @ weights - states.mean(0) - (judged - features.mean(0)) @ solution
    truth = judged @ weights
    r2 = 1 - (error**2).sum(0) / ((truth - truth.mean(0)) ** 2).sum(0)
    np.testing.assert_allclose(found, r2, atol=1e-5)


def test_the_probe_chooses_a_ridge_that_survives_noise() -> None:
    """200 noisy features, 250 frames: the weakest ridge fits the noise."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((500, 1))
    features = torch.as_tensor(truth @ np.ones((1, 200)) + 3 * rng.standard_normal((500, 200)))
    parts = (features[:250], truth[:250], features[250:], truth[250:])
    assert collapse.probe_r2(*parts)[0] > 0.9
    assert linear_probe_r2(*parts, ridge=1e-6)[0] < 0.85


@pytest.mark.parametrize("number", range(len(collapse.RIDGES)))
def test_each_ridge_is_the_one_of_the_world_models_probe(number: int) -> None:
    rng = np.random.default_rng(0)
    features = torch.as_tensor(rng.standard_normal((80, 7)) * np.arange(1, 8))
    states = rng.standard_normal((80, 3)) + features[:, :3].numpy()
    found = collapse.r2(collapse._ridges(features[:50], states[:50])[number](features[50:]), states[50:])
    truth = linear_probe_r2(
        features[:50], states[:50], features[50:], states[50:], ridge=collapse.RIDGES[number]
    )
    np.testing.assert_allclose(found, truth, rtol=1e-9)


class Knowing(VisionEncoder):
    """One token a clip: what `say` makes of its last picture."""

    def __init__(self, say: Callable[[torch.Tensor], torch.Tensor], frames: int = 1) -> None:
        sizes = ViTConfig(
            image_size=16, patch_size=4, width=24, depth=1, heads=2, mlp_dim=24, frames=frames, tubelet=1
        )
        super().__init__(ViT(sizes))
        self.say = say

    def tokens(self, pixels: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        assert keep is None
        assert pixels.shape[1] == self.config.frames
        return self.say(pixels[:, -1])[:, None]


def centre(pixels: torch.Tensor) -> torch.Tensor:
    light, grid = pixels.float().mean(-1), torch.arange(16.0)
    total = light.sum((1, 2))
    return torch.stack([light.sum(1) @ grid / total, light.sum(2) @ grid / total], dim=1)


@pytest.mark.parametrize("frames", [1, 3])
def test_measures_of_encoders_that_know_all_or_nothing(tmp_path: Path, frames: int) -> None:
    judged = Judged(*Episodes(write_dots(tmp_path / "dots.h5")).split(0.25), frames=frames)
    knows = collapse.measure(Knowing(centre, frames), judged)
    assert knows["probe_r2"] > 0.99
    assert knows["probe_r2_few"] > 0.99
    assert 1.5 < knows["effective_rank"] <= 2
    nothing = collapse.measure(Knowing(lambda pixels: torch.ones(len(pixels), 5), frames), judged)
    assert nothing["probe_r2"] < 0.01
    assert nothing["effective_rank"] == 1
    assert nothing["latent_std"] == nothing["latent_std_least"] == 0
    assert set(knows) == set(collapse.COLUMNS)


def test_tokens_side_by_side_say_where_their_mean_does_not(tmp_path: Path) -> None:
    """The encoder's tokens are the dot's rows and columns as one-hot places; their mean is the same for every picture."""

    class Places(Knowing):
        def tokens(self, pixels: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
            places = torch.nn.functional.one_hot(centre(pixels[:, -1]).round().long(), 16).float()
            return places.flatten(1)[..., None]  # [n, N 32, E 1]

    training, validation = Episodes(write_dots(tmp_path / "dots.h5")).split(0.25)
    encoder = Places(centre)
    assert collapse.measure(encoder, Judged(training, validation))["probe_r2"] < 0.01
    assert collapse.measure(encoder, Judged(training, validation, pooled=False))["probe_r2"] > 0.9


def test_few_labels_are_harder(tmp_path: Path) -> None:
    """An encoder of much noise and a little truth: 64 labels do not tell them apart."""
    noise = torch.Generator().manual_seed(0)

    def hide(pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([centre(pixels), 10 * torch.randn(len(pixels), 60, generator=noise)], dim=1)

    judged = Judged(*Episodes(write_dots(tmp_path / "dots.h5")).split(0.25))
    found = collapse.measure(Knowing(hide), judged)
    assert found["probe_r2"] > found["probe_r2_few"] + 0.05


def test_without_states_there_is_spread_but_no_probe(tmp_path: Path) -> None:
    judged = Judged(*Episodes(write_dots(tmp_path / "dots.h5", with_state=False)).split(0.25))
    found = collapse.measure(Knowing(collapse_free), judged)
    assert found["probe_r2"] is found["probe_r2_few"] is found["probe_r2_worst"] is None
    assert found["effective_rank"] > 5


def collapse_free(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.flatten(1).float()


@pytest.mark.parametrize("pooled", [True, False])
def test_baselines_do_not_depend_on_what_is_drawn_elsewhere(tmp_path: Path, pooled: bool) -> None:
    judged = Judged(*Episodes(write_dots(tmp_path / "dots.h5")).split(0.25), pooled=pooled)
    trained = VisionEncoder(
        ViT(ViTConfig(image_size=16, patch_size=4, width=24, depth=1, heads=2, mlp_dim=24))
    )
    torch.manual_seed(1)
    one = collapse.measure_baselines(trained, judged)
    before = torch.get_rng_state()
    assert collapse.measure_baselines(trained, judged) == one
    assert torch.equal(torch.get_rng_state(), before)
    assert set(one) == set(collapse.BASELINES)
    assert one["probe_r2_pixels"] > 0.99
    assert not math.isnan(one["probe_r2_untrained"])
