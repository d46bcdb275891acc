"""The rollout's kernels and schedule, against float64: every window, every kind of predictor, candidates in parts."""

from __future__ import annotations

import pytest
import specs
import torch
from close import assert_close

pytest.importorskip("triton", reason="the GPU's rollout needs triton")

from guard import guard

import fastwm.engine.cuda.predictor as schedule
from fastwm.engine.cuda.predictor import DevicePredictor
from fastwm.triton.rollout import attend, mlp, qkv

pytestmark = pytest.mark.ordered_by_atomics  # parts of a sum: the last program to arrive adds them

DEEP = [{"out": 20, "activation": "silu", "norm": True}, {"out": 24, "activation": "mish"}, {}]
SIMPLICIAL = [{"out": 40, "activation": "mish", "norm": True}, {"activation": "simnorm", "norm": True}]
PREDICTORS = {
    "transformer": specs.transformer(0),
    "one layer, residual": specs.transformer(1, L=1, residual=True),
    "input projection, long window": specs.transformer(2, E=20, W=32, H=3, D=16, window=4),
    "a head of one layer": specs.transformer(3, head=[{}]),
    "a head with norms": specs.transformer(4, head=DEEP, residual=True),
    "MLP": specs.mlp(5),
    "MLP with simplicial norm": specs.mlp(6, residual=False, head=SIMPLICIAL),
}
SIZES = {  # B, S, T, K: grows, slides, shares context frames, and all of them
    "one step": (2, 3, 1, 1),
    "growing": (2, 5, 3, 1),
    "sliding": (1, 3, 5, 1),
    "context": (2, 3, 5, 3),
    "more context than candidates": (1, 1, 1, 3),
}


def run(spec, device, dtype, *inputs):  # type: ignore[no-untyped-def]
    predictor = DevicePredictor(spec, dtype=dtype, device=device)
    context, actions, past = (tensor.to(device) for tensor in inputs)
    return predictor.rollout(context, actions, past, keep_all=True).cpu()


@pytest.mark.ordered_by_atomics
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", PREDICTORS)
def test_every_predictor_is_as_exact_as_pytorch(triton_device, name: str, dtype: str) -> None:
    spec = PREDICTORS[name]
    inputs = specs.inputs(spec, 7, B=2, S=3, T=2, K=2)
    with guard():
        found = run(spec, triton_device, dtype, *inputs)
    assert_close(name, found, specs.torch_rollout(spec, dtype, *inputs), specs.truth(spec, *inputs))


@pytest.mark.ordered_by_atomics
@pytest.mark.parametrize("size", SIZES)
def test_every_window_is_as_exact_as_pytorch(triton_device, size: str) -> None:
    B, S, T, K = SIZES[size]
    spec = specs.transformer(8, L=2, H=1)
    inputs = specs.inputs(spec, 7, B=B, S=S, T=T, K=K)
    with guard():
        found = run(spec, triton_device, "float32", *inputs)
    assert_close(size, found, specs.torch_rollout(spec, "float32", *inputs), specs.truth(spec, *inputs))


@pytest.mark.ordered_by_atomics
def test_the_order_of_programs_changes_nothing(triton_device, order) -> None:
    spec = specs.transformer(9, L=1, M=200)
    inputs = specs.inputs(spec, 7, B=1, S=40, T=2, K=1)  # more than one tile
    with guard("forward"):
        expected = run(spec, triton_device, "float32", *inputs)
    with guard(order):
        assert torch.equal(run(spec, triton_device, "float32", *inputs), expected)


@pytest.mark.ordered_by_atomics
def test_programs_that_share_a_hidden_layer_give_the_bits_of_one(triton_device, monkeypatch) -> None:
    spec = specs.transformer(10, L=1, M=200)
    inputs = specs.inputs(spec, 7, B=1, S=5, T=1, K=1)
    found = {}
    for processors in (0, 4, 10_000):
        monkeypatch.setattr(mlp, "PROCESSORS", processors)
        with guard():
            found[processors] = run(spec, triton_device, "float32", *inputs)
    assert torch.equal(found[0], found[10_000])
    assert torch.equal(found[4], found[10_000])


@pytest.mark.ordered_by_atomics
@pytest.mark.parametrize("processors", [0, 10_000])
def test_tiles_for_few_rows_and_for_many_are_right(triton_device, monkeypatch, processors: int) -> None:
    for module in (qkv, attend):
        monkeypatch.setattr(module, "PROCESSORS", processors)
    spec = specs.transformer(14, E=80, L=1, H=4, D=24)  # two column tiles, and 288 queries, keys and values
    inputs = specs.inputs(spec, 7, B=1, S=3, T=3, K=1)
    with guard():
        found = run(spec, triton_device, "bfloat16", *inputs)
    assert_close("tiles", found, specs.torch_rollout(spec, "bfloat16", *inputs), specs.truth(spec, *inputs))


@pytest.mark.ordered_by_atomics
@pytest.mark.parametrize("fits", [1, 2, 7])
def test_candidates_in_parts_are_all_of_them(triton_device, monkeypatch, fits: int) -> None:
    spec = specs.transformer(11, L=1)
    inputs = specs.inputs(spec, 7, B=3, S=3, T=2, K=2)
    whole = run(spec, triton_device, "float32", *inputs)
    each = DevicePredictor(spec, dtype="float32", device=triton_device)._bytes_per_candidate(2)
    monkeypatch.setattr(schedule, "BUDGET", fits * each)
    # In the interpreter a tile's product is numpy's, whose rounding depends on the row.
    torch.testing.assert_close(run(spec, triton_device, "float32", *inputs), whole, rtol=1e-6, atol=1e-6)


@pytest.mark.ordered_by_atomics
def test_a_nan_stays_with_its_candidate(triton_device) -> None:
    spec = specs.transformer(12, L=1)
    context, actions, past = specs.inputs(spec, 7, B=1, S=4, T=2, K=1)
    actions[0, 2, 0, 0] = float("nan")
    found = run(spec, triton_device, "float32", context, actions, past)
    assert found[0, 2].isnan().all()
    assert found[0, [0, 1, 3]].isfinite().all()


def test_programs_that_share_nothing_do_not_race(triton_device, monkeypatch) -> None:
    """The one test that ttsem judges for races, too: elsewhere programs share a tile and order themselves by atomics."""
    monkeypatch.setattr(mlp, "PROCESSORS", 0)
    spec = specs.transformer(13, L=1, residual=True)
    inputs = specs.inputs(spec, 7, B=2, S=3, T=4, K=2)
    with guard():
        found = run(spec, triton_device, "float32", *inputs)
    assert_close("alone", found, specs.torch_rollout(spec, "float32", *inputs), specs.truth(spec, *inputs))


@pytest.mark.parametrize(
    ("width", "dtype", "stages"),
    [
        (192, "bfloat16", 2),
        (256, "bfloat16", 2),
        (320, "bfloat16", 1),
        (768, "bfloat16", 1),
        (192, "float32", 1),
    ],
)
def test_the_weights_of_wide_predictors_fit_in_shared_memory(width: int, dtype: str, stages: int) -> None:
    """At 768 two stages took 250 KB, which no GPU has: the launch would have been refused."""
    assert mlp.stages(2 * width // 64, schedule.DTYPES[dtype]) == stages
