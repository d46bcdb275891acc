"""Every planning op as a torch op: opcheck, torch.compile without a graph break, the fallback, and the eager
bypass."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from fastwm import ops, reference
from fastwm.engine.cuda import device
from fastwm.ops import _check


def arguments() -> dict[str, tuple]:
    random = torch.Generator().manual_seed(0)
    mean, std = torch.randn(2, 3, 4, generator=random), torch.rand(2, 3, 4, generator=random)
    actions, cost = torch.randn(2, 9, 3, 4, generator=random), torch.randn(2, 9, generator=random)
    latents, goal = torch.randn(2, 9, 3, 20, generator=random), torch.randn(2, 20, generator=random)
    bound, stream, noise = torch.ones(4), torch.tensor([3, 9]), torch.randn(2, 9, 3, 4, generator=random)
    return {
        "cem_sample": (
            mean,
            std,
            9,
            2**40,
            3,
            stream,
            None,
            -bound,
            bound,
            torch.eye(3),
            None,
            None,
            1,
            None,
        ),
        "cem_sample_noise": (
            mean,
            std,
            9,
            0,
            0,
            None,
            noise,
            None,
            None,
            None,
            actions[:, :2],
            None,
            2,
            None,
        ),
        "cem_sample_counter": (mean, std, 9, 0, 0, *[None] * 6, torch.tensor([7, 2]), 1, None),
        "goal_cost": (latents, goal, "cosine", "min", 1, None),
        "cem_update": (actions, cost, mean, std, 4, 0.1, 0.01, None, None, 1, None),
        "cem_update_best": (actions, cost, mean, std, 4, 0.1, 0.01, cost[:, 3], mean, 1, None),
    }


@pytest.mark.parametrize("case", arguments())
def test_opcheck(case: str) -> None:
    name = case.removesuffix("_noise").removesuffix("_counter").removesuffix("_best")
    torch.library.opcheck(getattr(torch.ops.fastwm, name).default, arguments()[case])


def plan_step(mean, std, latents, goal, iteration: int):
    actions = ops.cem_sample(mean, std, 9, 7, iteration, factor=torch.eye(mean.shape[1]))
    cost = ops.goal_cost(latents, goal, "squared", "mean") + ops.goal_cost(
        actions.flatten(2), torch.zeros(2, 12)
    )
    return actions, cost, *ops.cem_update(actions, cost, mean, std, 4, momentum=0.1)


def test_a_whole_iteration_compiles_without_a_graph_break() -> None:
    (mean, std, *_), (latents, goal, *_) = arguments()["cem_sample"], arguments()["goal_cost"]
    compiled = torch.compile(plan_step, fullgraph=True, backend="aot_eager")
    for iteration in range(3):
        for ours, eager in zip(
            compiled(mean, std, latents, goal, iteration),
            plan_step(mean, std, latents, goal, iteration),
            strict=True,
        ):
            assert torch.equal(ours, eager)


def test_a_wrong_shape_is_refused_while_tracing() -> None:
    compiled = torch.compile(ops.goal_cost, fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"goal has shape \(3, 20\), expected \(2, 20\)"):
        compiled(torch.zeros(2, 9, 20), torch.zeros(3, 20))


def test_the_reference_runs_where_the_backend_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTWM_BACKEND", "torch")
    module = sys.modules["fastwm.ops.goal_cost"]  # the package's attribute of that name is the function
    monkeypatch.setattr(module, "cpu_module", lambda: pytest.fail("the kernel ran"))
    latents, goal, *_ = arguments()["goal_cost"]
    assert torch.equal(ops.goal_cost(latents, goal), reference.goal_cost(latents, goal))


def test_an_isa_asked_for_by_name_runs_even_then(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    monkeypatch.setenv("FASTWM_BACKEND", "torch")
    monkeypatch.setattr("fastwm.reference.goal_cost", lambda *_: pytest.fail("the reference ran"))
    latents, goal, *_ = arguments()["goal_cost"]
    assert ops.goal_cost(latents, goal, isa=isa).isfinite().all()


def test_an_unknown_isa_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTWM_ISA", "sse9")
    with pytest.raises(ValueError, match="FASTWM_ISA is 'sse9'"):
        ops.goal_cost(torch.zeros(1, 1, 4), torch.zeros(1, 4))


def test_cuda_tensors_have_the_reference_where_the_cuda_module_was_not_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent() -> None:
        raise ImportError("no fastwm._cuda")

    monkeypatch.setattr(device, "cuda_module", absent)
    assert _check.gpu_for(torch.device("cuda", 0), None) is None
    with device.on(torch.device("cpu")), pytest.raises(ImportError, match=r"no fastwm\._cuda"):
        ops.goal_cost(torch.zeros(1, 1, 4), torch.zeros(1, 4))  # a GPU to emulate was asked for by name


def test_cuda_tensors_go_to_the_cuda_module(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = SimpleNamespace(cuda_stream=77)
    monkeypatch.setattr(device, "cuda_module", lambda: "the module")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda on: stream)
    assert _check.gpu_for(torch.device("cuda", 1), None) == ("the module", 1, 77)
    assert _check.gpu_for(torch.device("cpu"), None) is None
    with device.on(torch.device("cpu")):
        assert _check.gpu_for(torch.device("cpu"), None) == ("the module", 0, 0)
        assert _check.gpu_for(torch.device("cpu"), "avx2") is None
    monkeypatch.setenv("FASTWM_BACKEND", "torch")
    assert _check.gpu_for(torch.device("cuda", 1), None) is None


def test_tensors_on_another_device_get_no_kernel() -> None:
    with pytest.raises(ValueError, match="isa is 'avx2' but the tensors are on meta"):
        ops.goal_cost(torch.zeros(1, 1, 4, device="meta"), torch.zeros(1, 4, device="meta"), isa="avx2")
    with pytest.raises(ValueError, match="goal is on meta, expected cpu"):
        ops.goal_cost(torch.zeros(1, 1, 4), torch.zeros(1, 4, device="meta"))
