"""Sampling on a GPU: the bits of the reference, whatever the shape, the order of threads and the batch."""

from __future__ import annotations

import math

import pytest
import sanitize
import torch
from torch import Tensor

from fastwm import ops, reference
from fastwm.engine.cuda import device
from fastwm.planning.noise import autoregressive, power_law

# Candidates that share a block, candidates of several blocks, and numbers that are no multiple of four.
SHAPES = [(1, 1, 1, 1), (1, 60, 5, 10), (3, 37, 7, 3), (2, 17, 1, 5), (5, 9, 12, 2), (2, 3, 4, 301)]
SANITIZED = [pytest.param(name, marks=getattr(pytest.mark, name)) for name in sanitize.SANITIZERS]


def distribution(B: int, T: int, A: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, A, generator=random), torch.rand(B, T, A, generator=random)


def sampled(gpu: torch.device, mean: Tensor, std: Tensor, *numbers: int, **options: Tensor) -> Tensor:
    """What the kernel gives, on the CPU."""
    placed = {name: value.to(gpu) for name, value in options.items()}
    return ops.cem_sample(mean.to(gpu), std.to(gpu), *numbers, **placed).cpu()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_bits_of_the_reference(gpu: torch.device, schedule: object, shape: tuple[int, ...]) -> None:
    B, S, T, A = shape
    mean, std = distribution(B, T, A)
    random = torch.Generator().manual_seed(1)
    low, high = torch.linspace(-1, -0.5, A), torch.linspace(0.5, 1, A).expand(T, A)
    stream = torch.arange(B) * 7 + 2**32 - 40
    noise = torch.randn(B, S, T, A, generator=random)
    options: list[dict[str, Tensor]] = [
        {},
        {"stream": stream, "low": low},
        {"factor": autoregressive(T, 0.7), "high": high},
        {"noise": noise, "factor": power_law(T, 2.0)},
        {"noise": noise, "low": low, "high": high},
        {"counter": torch.tensor([2**62 + 5, 2**32 - 1]), "stream": stream},
    ]
    if S > 1:
        injected = torch.randn(B, min(S - 1, 6), T, A, generator=random)
        options.append({"injected": injected, "low": low, "high": high, "factor": autoregressive(T, 0.3)})
    for option in options:
        found = sampled(gpu, mean, std, S, 2**63 - 1 - S, 29, **option)
        assert torch.equal(found, reference.cem_sample(mean, std, S, 2**63 - 1 - S, 29, **option)), option


def test_an_iteration_is_one_launch_of_each(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []

    def watch(name: str, kernel: device.Kernel) -> device.Kernel:
        launched.append(name)
        return kernel

    monkeypatch.setattr(device, "watchers", [watch])
    mean, std = (x.to(gpu) for x in distribution(5, 7, 20))
    actions = ops.cem_sample(
        mean, std, 90, 0, 0, factor=autoregressive(7, 0.5).to(gpu), injected=mean[:, None]
    )
    cost = ops.goal_cost(actions, mean[:, 0])
    ops.cem_update(actions, cost, mean, std, 40, best_cost=cost[:, 0], best_actions=mean)
    assert launched == ["cem_sample", "goal_cost", "cem_update"]


def test_an_environment_alone_draws_what_it_draws_in_a_batch(gpu: torch.device) -> None:
    mean, std = distribution(5, 3, 4)
    injected = mean[:, None] + 1
    batch = sampled(gpu, mean, std, 90, 9, 2, injected=injected)
    for b in range(5):
        alone = slice(b, b + 1)
        found = sampled(
            gpu, mean[alone], std[alone], 90, 9, 2, stream=torch.tensor([b]), injected=injected[alone]
        )
        assert torch.equal(found[0], batch[b])


def test_a_candidate_does_not_depend_on_how_many_there_are(gpu: torch.device) -> None:
    mean, std = distribution(2, 5, 3)
    many = sampled(gpu, mean, std, 100, 9, 2)
    assert torch.equal(sampled(gpu, mean, std, 41, 9, 2), many[:, :41])


def test_injected_candidates_are_clipped_and_nan_is_not(gpu: torch.device) -> None:
    mean, std = distribution(2, 3, 4)
    injected = torch.full((2, 8, 3, 4), 7.0)
    injected[1, 2, 0, 0] = mean[1, 1, 1] = math.nan
    found = sampled(
        gpu, mean, std, 9, 0, 0, injected=injected, low=torch.full((4,), -0.5), high=torch.full((4,), 0.5)
    )
    assert found[1, :, 1, 1].isnan().tolist() == [True] + [False] * 8
    assert found[1, 3, 0, 0].isnan()
    assert (found[:, 1:].nan_to_num(0.5) == 0.5).all()


def test_strided_inputs_are_read_as_they_are_indexed(gpu: torch.device) -> None:
    mean, std = distribution(3, 4, 5)
    noise = torch.randn(3, 21, 4, 5, generator=torch.Generator().manual_seed(1))
    strided = noise.transpose(1, 3).contiguous().transpose(1, 3)
    assert torch.equal(
        sampled(gpu, mean, std, 21, 0, 0, noise=strided), sampled(gpu, mean, std, 21, 0, 0, noise=noise)
    )


def test_a_candidate_too_long_for_coloured_noise_is_refused(gpu: torch.device) -> None:
    mean, std = distribution(1, 2, 6145)
    with pytest.raises(
        ValueError, match="a candidate has 12290 numbers, expected at most 12288 with a factor"
    ):
        sampled(gpu, mean, std, 2, 0, 0, factor=torch.eye(2))
    found = sampled(gpu, mean, std, 2, 0, 0)
    assert torch.equal(found, reference.cem_sample(mean, std, 2, 0, 0))
    mean, std = distribution(1, 2, 6144)
    found = sampled(gpu, mean, std, 2, 0, 0, factor=torch.tensor([[1.0, 0.0], [0.5, 2.0]]))
    assert torch.equal(
        found, reference.cem_sample(mean, std, 2, 0, 0, factor=torch.tensor([[1.0, 0.0], [0.5, 2.0]]))
    )


@pytest.mark.parametrize("sanitizer", SANITIZED)
def test_sanitizers_have_nothing_to_say(gpu: torch.device, sanitizer: str) -> None:
    with sanitize.recorded() as calls:
        for B, S, T, A in ((2, 7, 5, 3), (1, 2, 4, 301), (1, 13, 12, 8)):
            mean, std = distribution(B, T, A)
            low, factor, injected = mean[0, 0] - 0.5, autoregressive(T, 0.5), mean[:, None] + 1
            sampled(
                gpu, mean, std, S, 3, 4, stream=torch.arange(B), low=low, factor=factor, injected=injected
            )
            sampled(gpu, mean, std, S, 0, 0, counter=torch.tensor([5, 6]))
            sampled(gpu, mean, std, S, 0, 0, noise=torch.randn(B, S, T, A), high=mean[0])
    sanitize.check(calls, sanitizer)
