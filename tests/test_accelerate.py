"""accelerate(): the same numbers, names and modes by other kernels; a training run that does not notice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fastwm.models import LatentWAM, LatentWAMConfig, WorldModel, WorldModelConfig
from fastwm.models.predictor import AdaLNBlock
from fastwm.objectives import PredictionLoss, SIGReg
from fastwm.training.accelerate import FastAdaLNBlock, FastLinear, accelerate

SIZES = {
    "image_size": 16,
    "encoder_width": 4,
    "embed_dim": 24,
    "width": 20,
    "heads": 3,
    "head_dim": 8,
    "mlp_dim": 28,
}


def pair(**changes: object) -> tuple[WorldModel, WorldModel]:
    """A plain model, its modulation not zero, and its accelerated copy."""
    torch.manual_seed(0)
    plain = WorldModel(
        WorldModelConfig.preset("small", action_dim=2, **SIZES, depth=2, projector_dim=32, **changes)
    )
    for parameter in [*plain.predictor.parameters(), plain.pred_proj.fc2.weight]:
        nn.init.normal_(parameter, std=0.2)
    return plain, accelerate(copy.deepcopy(plain))


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(5, 3, 24, generator=random), torch.randn(5, 3, 2, generator=random)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("training", [False, True])
def test_results_and_gradients_are_the_same(dropout: float, training: bool) -> None:
    found = []
    for model in pair(dropout=dropout):
        model.train(training)
        torch.manual_seed(7)  # the same dropout
        predicted = model.predict(*inputs())
        predicted.square().mean().backward()
        gradients = {f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append({"predicted": predicted.detach()} | gradients)
    plain, fast = found
    assert plain.keys() == fast.keys()
    for name, expected in plain.items():
        torch.testing.assert_close(fast[name], expected, rtol=1e-3, atol=1e-5, msg=name)
    assert not torch.equal(fast["predicted"], plain["predicted"]), "the kernels did not run"


def test_names_and_values_of_the_state_are_unchanged_and_twice_is_once() -> None:
    plain, fast = pair()
    assert list(fast.state_dict()) == list(plain.state_dict())
    assert accelerate(fast) is fast
    assert {type(block) for block in fast.predictor.blocks} == {FastAdaLNBlock}
    plain.load_state_dict(fast.state_dict())


def test_an_accelerated_model_is_copied_with_its_own_parameters() -> None:
    _, fast = pair()
    fast.eval()
    copied = copy.deepcopy(fast)
    before = fast.predict(*inputs())
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(fast.predict(*inputs()), before)
    assert not torch.equal(copied.predict(*inputs()), before)


def test_twenty_steps_of_training_do_not_notice() -> None:
    random = torch.Generator().manual_seed(2)
    pixels = torch.randint(0, 256, (8, 4, 16, 16, 3), dtype=torch.uint8, generator=random)
    actions = torch.randn(8, 3, 2, generator=random)
    curves = []
    for model in pair(dropout=0.1):
        prediction, regulariser = PredictionLoss(), SIGReg(projections=32)
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-3), []
        for step in range(20):
            torch.manual_seed(step)
            latents = model.encode(pixels)
            predicted = model.predict(latents[:, :-1], actions).transpose(0, 1)
            loss = prediction(predicted, latents.transpose(0, 1)) + 0.1 * regulariser(latents.transpose(0, 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        curves.append(losses)
    plain, fast = curves
    assert plain[-1] < 0.9 * plain[0]
    assert fast == pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_autocast(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTWM_BACKEND", backend)
    plain, fast = pair()
    exact = plain.predict(*inputs())
    with torch.autocast("cpu", torch.bfloat16):
        expected, found = plain.predict(*inputs()), fast.predict(*inputs())
    assert found.dtype == expected.dtype
    assert (found - exact).abs().max() <= 2 * (expected - exact).abs().max()
    found.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in fast.predictor.parameters())


def test_a_module_without_kernels_is_refused() -> None:
    with pytest.raises(TypeError, match="model is a Conv2d without Linear, AdaLNBlock or SIGReg"):
        accelerate(nn.Conv2d(1, 1, 1))


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match="model is dict, expected a torch"):
        accelerate({})  # type: ignore[arg-type]


def test_a_regulariser_alone_is_taken() -> None:
    assert isinstance(accelerate(SIGReg(projections=3)), SIGReg)


def test_activation_checkpointing() -> None:
    _, fast = pair()
    latents, actions = inputs()
    expected = latents.clone().requires_grad_()
    fast.eval().predict(expected, actions).square().sum().backward()
    found = latents.clone().requires_grad_()
    checkpoint(fast.predict, found, actions, use_reentrant=False).square().sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_a_model_of_bfloat16_parameters() -> None:
    plain, fast = (model.to(torch.bfloat16).eval() for model in pair())
    latents, actions = (value.bfloat16() for value in inputs())
    found = fast.predict(latents, actions)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain.predict(latents, actions), rtol=0.05, atol=0.05)


def test_streams_that_turn_with_time_keep_their_blocks() -> None:
    model = accelerate(LatentWAM(LatentWAMConfig(action_dim=2, width=16, heads=2, head_dim=8, depth=1)))
    kinds = {type(module) for module in model.modules()}
    assert FastLinear in kinds
    assert AdaLNBlock in kinds
    assert FastAdaLNBlock not in kinds


def test_every_linear_layer_of_a_model_of_any_kind() -> None:
    """A residual MLP predictor, and a layer that a subclass changed, which stays as it is."""

    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(7, 5), nn.GELU(), Doubled(5, 3))
    fast = accelerate(copy.deepcopy(plain))
    assert [type(layer) for layer in fast] == [FastLinear, nn.GELU, Doubled]
    x = torch.randn(4, 2, 7)
    torch.testing.assert_close(fast(x), plain(x))
    assert type(accelerate(nn.Linear(2, 2))) is FastLinear
