"""SIGReg's statistic as an op on the CPU: the formula with sines and cosines in float64, gradients, tracing, refusals; its
kernels on every instruction set; and the same of a batch that several processes hold."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from close import assert_close
from torch import nn

from fastwm import ops, reference
from fastwm.objectives import SIGReg
from fastwm.ops.sigreg import _backward, _forward, epps_pulley
from fastwm.reference.sigreg import rule

SIZES = [
    (1, 1, 1, 1, 2),
    (2, 7, 3, 5, 3),
    (3, 65, 20, 33, 17),
    (1, 40, 6, 9, 18),
    (2, 301, 4, 70, 33),
]  # T, B, E, P, knots


@pytest.fixture
def forced(isa: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The instruction set that the op's kernels run on."""
    monkeypatch.setenv("FASTWM_ISA", isa)
    return isa


def example(T: int, B: int, E: int, P: int, dtype: torch.dtype = torch.float32):
    random = torch.Generator().manual_seed(B)
    latents = 1.5 * torch.randn(T, B, E, generator=random, dtype=torch.float64) + 0.3
    directions = torch.randn(E, P, generator=random, dtype=torch.float64)
    return latents.to(dtype), (directions / directions.norm(dim=0)).to(dtype)


def formula(latents: torch.Tensor, directions: torch.Tensor, knots: int) -> torch.Tensor:
    """[T, P]: trapezoid rule over both signs of t, a sine and a cosine for each knot."""
    t = torch.linspace(-3, 3, 2 * knots - 1, dtype=latents.dtype)
    angles = (latents @ directions)[..., None] * t
    target = torch.exp(-t.square() / 2)
    distance = (angles.cos().mean(1) - target).square() + angles.sin().mean(1).square()
    return latents.shape[1] * torch.trapezoid(distance * target, dx=3 / (knots - 1))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_reference_is_the_formula(size) -> None:
    *shape, knots = size
    inputs = example(*shape, torch.float64)
    torch.testing.assert_close(
        reference.sigreg(*inputs, knots), formula(*inputs, knots), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_float32_is_as_exact_as_sines_and_cosines(size, forced: str) -> None:
    *shape, knots = size
    latents, directions = example(*shape)
    latents.requires_grad_()

    def run(function, dtype: torch.dtype):
        z = latents.detach().to(dtype).requires_grad_()
        found = function(z, directions.to(dtype), knots)
        (found * weights.to(dtype)).sum().backward()
        return found.detach(), z.grad

    weights = torch.randn(shape[0], shape[3], generator=torch.Generator().manual_seed(9))
    truth, same = run(formula, torch.float64), run(formula, torch.float32)
    for name, *values in zip(
        ("statistic", "gradient"), run(ops.sigreg, torch.float32), same, truth, strict=True
    ):
        size = max(
            1.0, float(values[-1].abs().max())
        )  # differences of characteristic functions, which are 1 or less
        assert_close(name, *values, tiny=2 * torch.finfo(torch.float32).eps * size)


def test_more_knots_than_kernels_take() -> None:
    latents, directions = example(1, 9, 4, 3)
    truth = formula(latents.double(), directions.double(), 70)
    torch.testing.assert_close(ops.sigreg(latents, directions, 70).double(), truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("knots", [2, 5, 17])
def test_gradient(knots: int) -> None:
    latents, directions = example(2, 5, 3, 4, torch.float64)
    latents.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ops.sigreg(z, directions, knots), (latents,))
    assert torch.autograd.gradcheck(lambda z: reference.sigreg(z, directions, knots), (latents,))


def test_no_gradient_flows_to_the_directions() -> None:
    latents, directions = example(1, 4, 3, 2)
    directions.requires_grad_()
    ops.sigreg(latents.requires_grad_(), directions).sum().backward()
    assert directions.grad is None
    assert latents.grad is not None


def test_the_objective_is_the_mean_over_its_directions() -> None:
    latents, _ = example(2, 9, 5, 1)
    found = SIGReg(projections=31)(latents, generator=torch.Generator().manual_seed(5))
    directions = torch.randn(5, 31, generator=torch.Generator().manual_seed(5))
    truth = formula(latents.double(), (directions / directions.norm(dim=0)).double(), 17).mean()
    assert found.item() == pytest.approx(truth.item(), rel=1e-5)


def test_registered() -> None:
    samples = torch.randn(2, 7, 5)
    torch.library.opcheck(torch.ops.fastwm.sigreg.default, (samples, 17))
    found, pull = _forward(samples, 17)
    torch.library.opcheck(torch.ops.fastwm.sigreg_backward.default, (torch.randn_like(found), samples, pull))


def test_one_graph() -> None:
    latents, directions = example(2, 7, 3, 5)

    def gradient(function) -> tuple[torch.Tensor, torch.Tensor]:
        z = latents.clone().requires_grad_()
        found = function(z, directions)
        found.square().sum().backward()
        return found.detach(), z.grad

    compiled = torch.compile(ops.sigreg, fullgraph=True, backend="aot_eager")
    for eager, traced in zip(gradient(ops.sigreg), gradient(compiled), strict=True):
        torch.testing.assert_close(traced, eager, rtol=1e-6, atol=1e-7)


Z, D = torch.zeros(2, 3, 4), torch.zeros(4, 5)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Z[0], D), ValueError, r"latents has shape \(3, 4\), expected \[T, B, E\]"),
        ((Z[:, :0], D), ValueError, r"latents has shape \(2, 0, 4\)"),
        ((None, D), TypeError, "latents is NoneType"),
        (
            (Z.half(), D.half()),
            TypeError,
            "latents is torch.float16, expected torch.float32 or torch.float64",
        ),
        ((Z, D[0]), ValueError, r"directions has shape \(5,\), expected \[E, P\]"),
        ((Z, D[:3]), ValueError, r"directions has shape \(3, 5\), expected \(4, 5\)"),
        ((Z, D.double()), TypeError, "directions is torch.float64, expected torch.float32"),
        ((Z, D, 1), ValueError, "knots is 1, expected 2 <= knots"),
        ((Z, D, 17.0), TypeError, "knots is 17.0, expected an integer"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message: str) -> None:
    with pytest.raises(error, match=message):
        ops.sigreg(*arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_nan_and_stays_in_its_column(value: float, forced: str) -> None:
    samples = torch.randn(1, 9, 21, generator=torch.Generator().manual_seed(0))
    clean, spoiled = samples.clone().requires_grad_(), samples.clone()
    spoiled[0, 5, 3] = value
    spoiled.requires_grad_()
    expected, found = epps_pulley(clean), epps_pulley(spoiled)
    expected.sum().backward()
    found.sum().backward()
    others = [p for p in range(21) if p != 3]
    assert found[0, 3].isnan()
    assert spoiled.grad[0, :, 3].isnan().all()
    torch.testing.assert_close(found[:, others], expected[:, others], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(spoiled.grad[:, :, others], clean.grad[:, :, others], rtol=1e-4, atol=1e-6)


# csrc/cpu/sincos.h: rounding of the last operations and of the reduced angle, 2^-24 each, and that of pull itself.
@pytest.mark.parametrize(
    ("largest", "bound"), [(1e-3, 2e-7), (1.0, 2e-7), (1e4, 2e-7), (2e6, 2e-7), (1e9, 3e-6), (3e14, 1.0)]
)
def test_sine_and_cosine_keep_their_bound(largest: float, bound: float, forced: str) -> None:
    random = np.random.default_rng(0)
    x = (largest * random.uniform(-1, 1, 40000)).astype(np.float32)
    x[:4] = [0, largest, -largest, largest / 2]
    _, pull = _forward(torch.from_numpy(x)[None, None], 2)  # one sample a column, one frequency: 3
    target, _, force = rule(2, torch.float64, torch.device("cpu"))[:, 0].tolist()
    cosine, sine = pull[0, :, 0].double().numpy() / force
    angle = 3 * x.astype(np.longdouble)
    assert np.abs(cosine + target - np.cos(angle)).max() < bound
    assert np.abs(sine - np.sin(angle)).max() < bound
    assert np.abs(np.hypot(cosine + target, sine) - 1).max() < 4e-7  # on the unit circle, however large


def test_float32_takes_what_is_too_large_for_an_angle() -> None:
    found = epps_pulley(torch.full((1, 3, 2), 3e38))
    torch.testing.assert_close(found, epps_pulley(torch.zeros(1, 3, 2)))  # angle 0, said in csrc/cpu/sincos.h


@pytest.mark.parametrize("P", [1, 16, 64, 65, 1024])
def test_bits_do_not_depend_on_threads_or_on_the_columns_beside(P: int, forced: str) -> None:
    samples = torch.randn(3, 37, P, generator=torch.Generator().manual_seed(P))
    gradient = torch.randn(3, P, generator=torch.Generator().manual_seed(1))
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found, pull = _forward(samples, 17)
            runs.append((found, pull, _backward(gradient, samples, pull)))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0], strict=True))
    found, pull = _forward(samples[1:2, :, P // 2 : P // 2 + 1], 17)
    assert torch.equal(found[0, 0], runs[0][0][1, P // 2])
    assert torch.equal(pull[0, :, :, 0], runs[0][1][1, :, :, P // 2])


def test_strided_samples_and_gradients() -> None:
    samples = torch.randn(7, 2, 6, generator=torch.Generator().manual_seed(0)).transpose(0, 1)
    dense = samples.contiguous()
    assert torch.equal(epps_pulley(samples), epps_pulley(dense))
    found, pull = _forward(dense, 17)
    expanded = torch.tensor(0.3).expand_as(found)
    assert torch.equal(_backward(expanded, samples, pull), _backward(expanded.contiguous(), dense, pull))


def test_autocast_does_not_round_the_projection() -> None:
    latents, directions = example(2, 40, 30, 8)
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.sigreg(latents, directions)
    assert torch.equal(found, ops.sigreg(latents, directions))


def test_backward_refuses_a_gradient_of_another_shape() -> None:
    samples = torch.zeros(1, 3, 2)
    _, pull = _forward(samples, 17)
    with pytest.raises(ValueError, match=r"gradient has shape \(2,\), expected \(1, 2\)"):
        _backward(torch.zeros(2), samples, pull)


# ---- a batch that several processes hold ------------------------------------------------------------------------------------

PARTS = (5, 8)  # samples of each process, unequal
BATCH = torch.randn(3, sum(PARTS), 6, generator=torch.Generator().manual_seed(3))


class Encoder(nn.Module):
    """Latents, and the loss of a data-parallel training step: a mean over the batch plus SIGReg."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 7)
        self.sigreg = SIGReg(projections=19)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(5 + (dist.get_rank() if dist.is_initialized() else 0))  # ranks draw apart
        latents = self.linear(x)
        return latents.square().mean(), self.sigreg(latents)


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    first = sum(PARTS[:rank])
    unequal = BATCH[:, first : first + PARTS[rank]].clone().requires_grad_()
    directions = torch.randn(6, 19, generator=torch.Generator().manual_seed(1))
    whole = ops.sigreg(unequal, directions, group=dist.group.WORLD)
    (whole * (1 + rank)).sum().backward()
    alone = SIGReg(projections=19, synchronise=False)(
        unequal.detach(), generator=torch.Generator().manual_seed(2)
    )

    encoder = nn.parallel.DistributedDataParallel(Encoder())
    mean, regulariser = encoder(BATCH[:, 6 * rank : 6 * rank + 6])
    (mean + regulariser).backward()
    found = {
        "whole": whole.detach(),
        "gradient": unequal.grad,
        "alone": alone,
        "regulariser": regulariser.detach(),
    }
    found |= {f"of {name}": p.grad for name, p in encoder.module.named_parameters()}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_equal_one_with_the_joined_batch(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(one_of_two, (str(tmp_path),), nprocs=2)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]

    joined = BATCH.clone().requires_grad_()
    directions = torch.randn(6, 19, generator=torch.Generator().manual_seed(1))
    whole = ops.sigreg(joined, directions)
    (3 * whole).sum().backward()  # the sum of both ranks' results: once the statistic, once twice
    torch.testing.assert_close(
        torch.cat([r["gradient"] for r in ranks], 1), joined.grad, rtol=1e-4, atol=1e-6
    )

    encoder = Encoder()
    mean, regulariser = encoder(BATCH[:, :12])
    (mean + regulariser).backward()
    for rank, found in enumerate(ranks):
        torch.testing.assert_close(found["whole"], whole.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found["regulariser"], regulariser.detach(), rtol=1e-5, atol=1e-6)
        for name, p in encoder.named_parameters():
            torch.testing.assert_close(found[f"of {name}"], p.grad, rtol=1e-4, atol=1e-6)
        first = sum(PARTS[:rank])
        part = BATCH[:, first : first + PARTS[rank]]
        alone = SIGReg(projections=19)(part, generator=torch.Generator().manual_seed(2))
        assert torch.equal(found["alone"], alone)


def test_synchronise_needs_processes() -> None:
    with pytest.raises(RuntimeError, match=r"synchronise is True, expected torch\.distributed"):
        SIGReg(synchronise=True)(torch.zeros(1, 2, 3))
