"""The engine as a user meets it: one model, several threads, processes and instruction sets."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
import specs
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import every_model, random_model
from torch import Tensor

import fastwm
from fastwm.engine.backend import isas
from fastwm.engine.engine import Engine
from fastwm.models import WorldModel

SECONDS = 60  # a hang, on any machine


def problem(
    model: WorldModel, *, B: int = 2, S: int = 6, T: int = 5, K: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """context [B, K, E], actions [B, S, T, A] in environment units, past_actions [B, K-1, A]"""
    random = torch.Generator().manual_seed(0)
    config = model.config
    sizes = (B, K, config.embed_dim), (B, S, T, config.action_dim), (B, K - 1, config.action_dim)
    return tuple(torch.randn(size, generator=random) for size in sizes)  # type: ignore[return-value]


@every_model
@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_rollout_is_the_models_own(changes: dict, backend: str) -> None:
    """In environment units: the model's normalisation of actions is inside."""
    model = random_model(**changes)
    engine = fastwm.compile(model, backend=backend, dtype="float32", threads=2)
    for K in range(1, model.config.window + 1):
        context, actions, past = problem(model, K=K, T=7)
        with torch.no_grad():
            expected = model.rollout(context, actions, past)
        latents = engine.rollout(context, actions, past, keep="all")
        torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        assert torch.equal(engine.rollout(context, actions, past), latents[:, :, -1])


def test_the_engine_holds_a_copy() -> None:
    model = random_model()
    engine = fastwm.compile(model, threads=1)
    arguments, frame = problem(model), np.full((16, 16, 3), 7, np.uint8)
    latents, encoded = engine.rollout(*arguments), engine.encode(frame)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.zero_()
    assert torch.equal(engine.rollout(*arguments), latents)
    assert torch.equal(engine.encode(frame), encoded)
    assert engine.action_std.abs().sum() > 0


def test_the_model_is_left_alone() -> None:
    model = random_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    engine = fastwm.compile(model, threads=1)
    engine.encode(np.zeros((3, 16, 16, 3), np.uint8))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_arguments_are_left_alone() -> None:
    model = random_model()
    arguments = problem(model, K=3)
    before = [tensor.clone() for tensor in arguments]
    fastwm.compile(model, threads=2).rollout(*arguments)
    assert all(map(torch.equal, arguments, before))


# ---- encode --------------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None, derandomize=True)
@given(B=st.integers(1, 4), K=st.integers(1, 3), seed=st.integers(0, 99))
def test_a_latent_does_not_depend_on_its_batch(B: int, K: int, seed: int) -> None:
    engine = small_engine()
    frames = np.random.default_rng(seed).integers(0, 256, (B, K, 16, 16, 3), dtype=np.uint8)
    latents = engine.encode(frames)
    assert latents.shape == (B, K, engine.embed_dim)
    for b in range(B):
        assert torch.equal(engine.encode(frames[b, 0])[0, 0], latents[b, 0])
        assert torch.equal(engine.encode(torch.from_numpy(frames[b : b + 1]))[0], latents[b])
    assert torch.equal(engine.encode(frames[:, 0])[:, 0], latents[:, 0])


def test_encode_is_the_models_own() -> None:
    model = random_model()
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = model.encode(torch.from_numpy(frames))
    torch.testing.assert_close(small_engine().encode(frames), expected, rtol=1e-4, atol=1e-4)


def small_engine(threads: int = 1) -> Engine:
    return fastwm.compile(random_model(), dtype="float32", threads=threads)


# ---- what runs ------------------------------------------------------------------------------------------------------------


def test_info_says_what_runs(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("FASTWM_ISA", isa)
    model = random_model()
    info = fastwm.compile(model, dtype="bfloat16", threads=3).info()
    wanted = {
        "backend": "cpu",
        "isa": isa,
        "dtype": "bfloat16",
        "threads": 3,
        "embed_dim": 12,
        "action_dim": 2,
    }
    assert wanted.items() <= info.items()
    assert set(info["why"]) == {"backend", "isa", "dtype"}
    narrow, full = (
        fastwm.compile(model, dtype=dtype).info()["weight_bytes"] for dtype in ("bfloat16", "float32")
    )
    assert 0 < narrow < full


def test_every_instruction_set_is_forced_by_name_in_its_own_process() -> None:
    for isa in isas():
        assert fresh_process("print(fastwm.info()['isa'])", FASTWM_ISA=isa).stdout.strip() == isa


def test_an_impossible_choice_raises_in_its_own_process() -> None:
    found = fresh_process("fastwm.info()", FASTWM_ISA="avx1024")
    assert found.returncode != 0
    assert f"FASTWM_ISA is 'avx1024', expected {', '.join(isas())}: what this machine runs" in found.stderr
    found = fresh_process("fastwm.info()", FASTWM_BACKEND="tpu")
    assert found.returncode != 0
    assert "FASTWM_BACKEND is 'tpu', expected one of ('cpu', 'cuda', 'torch') or 'auto'" in found.stderr


def fresh_process(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import fastwm; {code}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


# ---- threads and processes -------------------------------------------------------------------------------------------------


def test_python_threads_share_an_engine() -> None:
    """Different sizes at once: workspaces are never shared."""
    model = random_model()
    engine = fastwm.compile(model, dtype="float32", threads=2)
    problems = [problem(model, S=S, T=T, K=K) for S, T, K in ((50, 3, 1), (20, 7, 3), (90, 2, 2), (3, 5, 1))]
    expected = [engine.rollout(*arguments) for arguments in problems]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not torch.equal(engine.rollout(*problems[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), "hangs"
    assert not wrong


def test_engines_come_and_go() -> None:
    """A new engine may get the handle of one that is gone."""
    model = random_model()
    arguments = problem(model)
    expected = fastwm.compile(model, dtype="float32", threads=1).rollout(*arguments)
    for _ in range(20):
        other = fastwm.compile(random_model(seed=1), dtype="float32", threads=1)
        assert not torch.equal(other.rollout(*arguments), expected)
        del other
        gc.collect()
        assert torch.equal(fastwm.compile(model, dtype="float32", threads=1).rollout(*arguments), expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork")
def test_a_forked_child_rolls_out_as_its_parent_did() -> None:
    """The pool's threads do not live on in a child, which starts its own."""
    spec = specs.transformer(0)  # plain numbers: no PyTorch threads take part in the child
    engine = fastwm.compile(specs.imported(spec), dtype="float32", threads=3)
    arguments = specs.inputs(spec, 0, B=2, S=300, T=20, K=2)
    assert arguments[1].numel() > 32_768, "so many that PyTorch would check them with its own threads"
    expected = engine.rollout(*arguments)
    torch.set_num_threads(2)
    assert torch.isfinite(arguments[1]).all()  # starts PyTorch's threads, which the child does not have

    def child(connection) -> None:  # type: ignore[no-untyped-def]
        again = [engine.rollout(*arguments).numpy() for _ in range(3)]
        connection.send([np.array_equal(latents, expected.numpy()) for latents in again])
        connection.close()

    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=child, args=(theirs,))
    process.start()
    try:
        assert ours.poll(SECONDS), "the child hangs"
        assert ours.recv() == [True] * 3
        process.join(SECONDS)
        assert process.exitcode == 0
    finally:
        process.kill()
    assert torch.equal(engine.rollout(*arguments), expected), "the parent goes on"


def test_a_goal_image_that_does_not_fit_is_called_a_goal() -> None:
    model = random_model()
    size = model.config.image_size
    planner = fastwm.Planner(
        fastwm.compile(model, threads=1), fastwm.CEM(samples=4, elites=2, iterations=1), horizon=1
    )
    obs = torch.zeros(size, size, 3, dtype=torch.uint8)
    with pytest.raises(TypeError, match="goal, taken for images as it has 3 dimensions: obs is float32"):
        planner.plan(obs, torch.zeros(size, size, 3))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", ["auto", "float32", "int8"])
def test_the_callers_defaults_change_nothing(default: torch.dtype, dtype: str) -> None:
    spec = specs.transformer(0, W=32)
    arguments = specs.inputs(spec, 1, B=2, S=10, T=3, K=2)
    model = specs.imported(spec)
    expected = fastwm.compile(model, dtype=dtype, threads=1).rollout(*arguments)
    try:
        torch.set_default_dtype(default)
        torch.set_default_device("meta")
        assert torch.equal(fastwm.compile(model, dtype=dtype, threads=1).rollout(*arguments), expected)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


@pytest.mark.parametrize("backend", ["cpu", "torch"])
def test_the_callers_autocast_changes_nothing(backend: str) -> None:
    model = random_model()
    size = model.config.image_size
    obs = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8)
    engine = fastwm.compile(model, backend=backend, threads=1)
    actions = torch.randn(1, 8, 3, engine.action_dim)
    context = engine.encode(obs)
    expected = engine.rollout(context, actions)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(engine.encode(obs), context)
        assert torch.equal(engine.rollout(context, actions), expected)
        again = fastwm.compile(model, backend=backend, threads=1)
    assert torch.equal(again.rollout(context, actions), expected)


def test_an_engine_says_why_it_cannot_be_sent() -> None:
    engine = fastwm.compile(random_model(), threads=1)
    for send in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="an Engine cannot be pickled or copied"):
            send(engine)


def test_a_model_may_be_told_its_action_block() -> None:
    model = random_model()
    A = model.config.action_dim
    assert fastwm.compile(model, dtype="float32").action_block == model.config.action_block
    assert fastwm.compile(model, dtype="float32", action_block=A).action_block == A
    for wrong in (0, A + 1, 1.0, True):
        with pytest.raises(ValueError, match="action_block is"):
            fastwm.compile(model, dtype="float32", action_block=wrong)
