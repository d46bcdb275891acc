"""What csrc/cpu/attention.h promises and tests/test_rollout.py does not reach: long windows, and candidates apart."""

from __future__ import annotations

import functools

import pytest
import specs
import torch
from close import assert_close
from torch import Tensor

from fastwm.engine.pack import DTYPES, PackedPredictor
from fastwm.engine.spec import PredictorSpec
from fastwm.ops.rollout import rollout

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@functools.cache
def long_window(K: int) -> tuple[PredictorSpec, tuple[Tensor, ...], Tensor, Tensor]:
    """Forty tokens: with K = 20 half of them are shared. (spec, inputs, truth, PyTorch in float32)"""
    spec = specs.transformer(0, L=1, D=20, window=40)
    inputs = specs.inputs(spec, 1, B=2, S=9, T=42 - K, K=K)
    return spec, inputs, specs.truth(spec, *inputs), specs.torch_rollout(spec, "float32", *inputs)


@pytest.mark.parametrize("K", [1, 20])
def test_a_long_window_is_close_to_float64(isa: str, K: int) -> None:
    """In float32 alone: the attention's own arithmetic is the same in every dtype."""
    spec, inputs, truth, same_dtype = long_window(K)
    got = rollout(PackedPredictor(spec, dtype="float32", isa=isa), *inputs, keep_all=True, threads=1)
    assert_close("latents", got, same_dtype, truth, tiny=2**-20 * float(truth.abs().max()))


@every_dtype
@pytest.mark.parametrize("K", [1, 3])
def test_a_candidate_that_overflows_is_alone(isa: str, dtype: str, K: int) -> None:
    spec = specs.transformer(0)
    packed = PackedPredictor(spec, dtype=dtype, isa=isa)
    context, actions, past = specs.inputs(spec, 0, B=1, S=37, T=5, K=K)
    calm = rollout(packed, context, actions, past, keep_all=True, threads=1)
    for wild in (0, 21, 36):
        changed = actions.clone()
        changed[0, wild, 1:] = 3e38
        latents = rollout(packed, context, changed, past, keep_all=True, threads=1)
        others = torch.arange(37) != wild
        assert torch.equal(latents[:, others], calm[:, others])
        assert torch.equal(latents[0, wild, 0], calm[0, wild, 0]), "a step sees no later action"
        assert not latents[0, wild, 1:].isfinite().any()
