"""Sampling: known answers of the generator, the same bits everywhere, and a normal distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastwm import ops, reference
from fastwm.engine import backend
from fastwm.planning.noise import autoregressive, power_law
from fastwm.reference.cem_sample import box_muller, philox

SHAPES = [(1, 1, 1, 1), (1, 300, 5, 10), (3, 37, 7, 3), (2, 17, 1, 5), (5, 64, 12, 2)]


def distribution(B: int, T: int, A: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, A, generator=random), torch.rand(B, T, A, generator=random)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0_A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, expected) -> None:
    words = philox([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in words) == expected


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", [0, 1234567, 2**63 - 1])
def test_every_isa_gives_the_bits_of_the_reference(isa: str, shape, seed: int) -> None:
    B, S, T, A = shape
    mean, std = distribution(B, T, A)
    stream = torch.arange(B) * 7 + 2**32 - 40
    low, high = torch.linspace(-1, -0.5, A), torch.linspace(0.5, 1, A)
    options = [{}, {"stream": stream}, {"low": low, "high": high}, {"factor": autoregressive(T, 0.7)}]
    options.append({"stream": stream, "low": low, "high": high, "factor": power_law(T, 2.0)})
    if S > 1:
        options.append(
            {"injected": torch.randn(B, min(S - 1, 6), T, A), "low": low, "factor": power_law(T, 1.0)}
        )
    options.append({"counter": torch.tensor([seed // 3, 2**32 - 1]), "high": high})
    for option in options:
        kernel = ops.cem_sample(mean, std, S, seed, 29, isa=isa, **option)
        assert torch.equal(kernel, reference.cem_sample(mean, std, S, seed, 29, **option))


def test_threads_do_not_change_a_bit(isa: str) -> None:
    mean, std = distribution(4, 12, 7)
    one = ops.cem_sample(
        mean, std, 600, 5, 3, factor=autoregressive(12, 0.5), isa=isa
    )  # enough numbers for two threads
    two = ops.cem_sample(mean, std, 600, 5, 3, factor=autoregressive(12, 0.5), threads=2, isa=isa)
    assert torch.equal(one, two)


def test_an_environment_alone_draws_what_it_draws_in_a_batch(isa: str) -> None:
    mean, std = distribution(5, 3, 4)
    batch = ops.cem_sample(mean, std, 33, 9, 2, isa=isa)
    for b in range(5):
        alone = ops.cem_sample(mean[b : b + 1], std[b : b + 1], 33, 9, 2, stream=torch.tensor([b]), isa=isa)
        assert torch.equal(alone[0], batch[b])


def test_a_candidate_does_not_depend_on_how_many_there_are(isa: str) -> None:
    mean, std = distribution(2, 5, 3)
    many = ops.cem_sample(mean, std, 100, 9, 2, isa=isa)
    assert torch.equal(ops.cem_sample(mean, std, 41, 9, 2, isa=isa), many[:, :41])


def test_given_noise_replaces_the_draws(isa: str) -> None:
    mean, std = distribution(3, 4, 5)
    noise = torch.randn(3, 21, 4, 5, generator=torch.Generator().manual_seed(1))
    expected = mean[:, None] + std[:, None] * noise
    expected[:, 0] = mean
    assert torch.equal(ops.cem_sample(mean, std, 21, 0, 0, noise=noise, isa=isa), expected)
    transposed = noise.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(ops.cem_sample(mean, std, 21, 0, 0, noise=transposed, isa=isa), expected)


def test_injected_candidates_follow_the_mean_within_bounds(isa: str) -> None:
    mean, std = distribution(3, 4, 5)
    low, high = torch.full((5,), -0.3), torch.full((4, 5), 0.2)
    plain = ops.cem_sample(mean, std, 21, 7, 1, low=low, high=high, isa=isa)
    for count in (1, 9, 20):
        injected = torch.randn(3, count, 4, 5, generator=torch.Generator().manual_seed(1))
        injected[1, 0, 2, 2] = math.nan
        actions = ops.cem_sample(mean, std, 21, 7, 1, low=low, high=high, injected=injected, isa=isa)
        assert torch.equal(actions[:, 1 : 1 + count].nan_to_num(9), injected.clamp(low, high).nan_to_num(9))
        assert torch.equal(actions[:, 1 + count :], plain[:, 1 + count :])
        assert torch.equal(actions[:, 0], plain[:, 0])


def test_a_counter_in_memory_takes_the_place_of_seed_and_iteration(isa: str) -> None:
    mean, std = distribution(2, 5, 3)
    for seed, iteration in ((0, 0), (2**63 - 1, 2**32 - 1), (2**40 + 3, 17)):
        counter = torch.tensor([seed, iteration])
        found = ops.cem_sample(mean, std, 9, 5, 6, counter=counter, isa=isa)
        assert torch.equal(found, ops.cem_sample(mean, std, 9, seed, iteration, isa=isa))
        assert torch.equal(found, reference.cem_sample(mean, std, 9, 5, 6, counter=counter))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**63 - 1),
    st.floats(-3, 3, width=32),
    st.floats(0, 4, width=32),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32 - 1),
)
def test_candidates_stay_within_bounds(seed, low, width, correlation, iteration) -> None:
    low, high = torch.tensor([low, -1.0]), torch.tensor([low, -1.0]) + width
    mean, std = distribution(2, 3, 2, seed=seed % 1000)
    for isa in backend.isas():
        actions = ops.cem_sample(
            4 * mean,
            4 * std,
            18,
            seed,
            iteration,
            low=low,
            high=high,
            factor=autoregressive(3, correlation),
            isa=isa,
        )
        assert ((actions >= low) & (actions <= high)).all()


def test_a_nan_in_the_mean_is_not_clipped_away(isa: str) -> None:
    mean, std = torch.full((1, 1, 1), math.nan), torch.ones(1, 1, 1)
    assert (
        ops.cem_sample(mean, std, 4, 0, 0, low=torch.tensor([-1.0]), high=torch.tensor([1.0]), isa=isa)
        .isnan()
        .all()
    )


# ---- the distribution: the bits are those of the reference everywhere, so one instruction set is enough ----


@pytest.fixture(scope="module")
def draws() -> np.ndarray:
    """2 million standard normals: [stream, candidate, place]."""
    zero, one = torch.zeros(4, 10, 10), torch.ones(4, 10, 10)
    return ops.cem_sample(zero, one, 5001, 2024, 7)[:, 1:].flatten(2).double().numpy()


def test_moments_are_those_of_a_normal(draws: np.ndarray) -> None:
    x, n = draws.ravel(), draws.size
    for power, expected in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0), (6, 15.0)):
        spread = math.sqrt(math.prod(range(1, 2 * power, 2)) - expected**2)  # E x^2p = (2p-1)!!
        assert abs((x**power).mean() - expected) < 5 * spread / math.sqrt(n), power


def test_the_distribution_function_is_that_of_a_normal(draws: np.ndarray) -> None:
    x = np.sort(draws.ravel())
    normal = 0.5 * (1 + torch.erf(torch.from_numpy(x) / math.sqrt(2)).numpy())
    rank = np.arange(len(x)) / len(x)
    distance = np.maximum(np.abs(normal - rank), np.abs(normal - rank - 1 / len(x))).max()
    assert distance < 1.95 / math.sqrt(len(x))  # Kolmogorov-Smirnov, one in a thousand


def test_tails_reach_five_sigma_as_often_as_they_should() -> None:
    zero, one = torch.zeros(64, 16, 8), torch.ones(64, 16, 8)
    x = ops.cem_sample(zero, one, 4001, 5, 0)[:, 1:].abs()  # 33 million: 19 beyond 5 sigma
    for sigma in (3.0, 4.0, 4.5, 5.0):
        expected = x.numel() * math.erfc(sigma / math.sqrt(2))
        assert abs(int((x > sigma).sum()) - expected) < 4 * math.sqrt(expected), sigma


def test_the_radius_is_real_and_as_it_should_be_at_the_ends() -> None:
    ends = torch.cat([torch.arange(0, 2**16), torch.arange(2**32 - 2**16, 2**32)])
    first, second = box_muller(ends, torch.full_like(ends, 0x12345678))
    radius = (first.double() ** 2 + second.double() ** 2).sqrt()
    uniform = (ends >> 1).float() * 2**-31 + 2**-32
    exact = (-2 * uniform.double().log()).sqrt()
    assert (radius - exact).abs().max() < 1e-6
    assert radius.max() > 6.6


def test_angles_are_exact_at_every_octant() -> None:
    angle = torch.arange(0, 2**32, 2**20 - 3)
    first, second = box_muller(torch.full_like(angle, 2**31), angle)
    turn = angle.double() * (2 * math.pi / 2**32)
    radius = math.sqrt(2 * math.log(2))
    assert (first.double() - radius * turn.cos()).abs().max() < 3e-7
    assert (second.double() - radius * turn.sin()).abs().max() < 3e-7


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["stream", "candidate", "place"])
def test_neighbouring_counters_are_independent(draws: np.ndarray, axis: int) -> None:
    x = np.moveaxis(draws, axis, 0)
    for lag in (1, 2, 3):
        for power in (1, 2):
            centred = x**power - (power - 1)
            product = (centred[lag:] * centred[:-lag]).ravel()
            assert abs(product.mean()) < 5 * power / math.sqrt(len(product)), (lag, power)


def test_iterations_and_seeds_are_independent(draws: np.ndarray) -> None:
    zero, one = torch.zeros(4, 10, 10), torch.ones(4, 10, 10)
    for seed, iteration in ((2024, 8), (2025, 7), (2024 + 2**32, 7)):
        other = ops.cem_sample(zero, one, 5001, seed, iteration)[:, 1:].flatten(2).double().numpy()
        assert abs((other * draws).mean()) < 5 / math.sqrt(draws.size)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"mean": torch.zeros(2, 3)}, ValueError, "mean has shape"),
        ({"mean": torch.zeros(2, 0, 4)}, ValueError, "mean has shape"),
        ({"mean": torch.zeros(2, 3, 4, dtype=torch.float64)}, TypeError, "mean is torch.float64"),
        ({"mean": np.zeros((2, 3, 4))}, TypeError, "mean is ndarray"),
        ({"std": torch.ones(2, 3, 5)}, ValueError, "std has shape"),
        ({"samples": 0}, ValueError, "samples is 0"),
        ({"samples": 2.0}, TypeError, "samples is 2.0"),
        ({"seed": -1}, ValueError, "seed is -1"),
        ({"seed": 2**63}, ValueError, "seed is"),
        ({"iteration": 2**32}, ValueError, "iteration is"),
        ({"stream": torch.zeros(3, dtype=torch.int64)}, ValueError, "stream has shape"),
        ({"stream": torch.zeros(2)}, TypeError, "stream is torch.float32"),
        ({"noise": torch.zeros(2, 6, 3, 4)}, ValueError, "noise has shape"),
        ({"low": torch.zeros(3)}, ValueError, "low has shape"),
        ({"high": torch.zeros(1, 4)}, ValueError, "high has shape"),
        ({"factor": torch.ones(2, 2)}, ValueError, r"factor has shape \(2, 2\)"),
        ({"factor": torch.ones(3, 3).double()}, TypeError, "factor is torch.float64"),
        (
            {"injected": torch.zeros(2, 5, 3, 4)},
            ValueError,
            "injected has 5 candidates, expected less than 5",
        ),
        ({"injected": torch.zeros(2, 2, 3, 3)}, ValueError, "injected has shape"),
        ({"injected": torch.zeros(2, 3, 4)}, ValueError, "injected has shape"),
        ({"counter": torch.zeros(3, dtype=torch.int64)}, ValueError, "counter has shape"),
        ({"counter": torch.zeros(2)}, TypeError, "counter is torch.float32"),
        ({"threads": 0}, ValueError, "threads is 0"),
        ({"isa": "mmx"}, ValueError, "instruction set 'mmx'"),
    ],
)
def test_bad_arguments_are_refused_by_name(change, error, message) -> None:
    good = {"mean": torch.zeros(2, 3, 4), "std": torch.ones(2, 3, 4), "samples": 5, "seed": 0, "iteration": 0}
    with pytest.raises(error, match=message):
        ops.cem_sample(**(good | change))
