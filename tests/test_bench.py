"""The benchmarks run, measure one problem in every way, and count its operations right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import specs
import torch

from bench import models, problems, run
from bench.agreement import Agreement
from bench.operations import count_operations
from bench.parity import truth
from bench.peers.peer import RowCosts, rows
from bench.problems import Setting, make_problem
from fastwm.engine.importers import import_model
from fastwm.models import WorldModel, WorldModelConfig
from fastwm.reference.rollout import rollout as reference_rollout

ROOT = Path(__file__).parents[1]


def test_the_quick_run_prints_times_and_writes_nothing() -> None:
    results = ROOT / "bench" / "results"
    before = {path: path.read_bytes() for path in results.glob("*.json")}
    command = [sys.executable, "-m", "bench.run", "goal_cost", "cem_update", "--quick", "--threads", "1"]
    printed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    for word in ("torch ", "fastwm ", "1 thread", "load ", " ms "):
        assert word in printed
    assert "parity failed" not in printed
    assert before == {path: path.read_bytes() for path in results.glob("*.json")}


@pytest.mark.parametrize("name", ["cache", "disassembly", "run"])
def test_help_explains_and_runs_nothing(name: str) -> None:
    command = [sys.executable, "-m", f"bench.{name}", "--help"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "usage:" in printed
    assert len(printed) > 400
    assert "[]" not in printed


@pytest.mark.slow
def test_the_quick_rollout_prints_a_speed_of_every_way_that_is_right() -> None:
    command = [sys.executable, "-m", "bench.run", "rollout", "--quick", "--threads", "1", "--models", "small"]
    command += ["--ways", "torch eager", "fastwm"]
    printed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    lines = [line for line in printed.splitlines() if line.startswith("model small") and "elites" in line]
    assert {"torch eager float32", "torch eager bfloat16"} <= {
        name for line in lines for name in (line.split("  ")[1],)
    }
    assert any("fastwm" in line for line in lines)
    assert all(" ms " in line for line in lines)


# ---- operations ------------------------------------------------------------------------------------------------------------


def test_operations_of_one_step_are_those_of_the_weights() -> None:
    """One block from one frame: every weight is used once, but those of queries, which a lone token does not need."""
    spec = specs.transformer(0, E=24, W=33, L=2, H=2, D=12, M=40)
    layers = [layer for part in spec.layers for layer in (part.modulation, part.out, part.fc1, part.fc2)]
    weights = [*spec.action, *spec.head, *layers, spec.input]
    keys_values = 2 * 33 * 2 * 12 * len(spec.layers)
    expected = 2 * (sum(dense.weight.numel() for dense in weights if dense is not None) + keys_values)
    assert count_operations(spec, samples=7, horizon=1, frames=1) == 7 * expected


def test_operations_of_a_full_window() -> None:
    """Three frames, then one block more: the first step computes one token, which sees two shared ones; the second moves the
    window by one, so that one shared frame is left and two tokens are computed, of which the last layer asks for one."""
    spec = specs.transformer(0, E=24, L=2, H=2, D=12, M=40)
    every = sum(2 * dense.weight.numel() for dense in (*spec.action, *spec.head))
    every += sum(2 * layer.modulation.weight.numel() for layer in spec.layers)
    layer = spec.layers[0]
    qkv = 2 * layer.qkv.weight.numel()
    after = sum(2 * dense.weight.numel() for dense in (layer.out, layer.fc1, layer.fc2))
    scores_and_sum = 4 * 2 * 12  # of one token seen by one token, all heads
    first = 2 * (qkv + after + 3 * scores_and_sum)
    second = 2 * (qkv + after) + (3 + 2) * scores_and_sum
    second += (
        2 * qkv * 2 // 3 + qkv // 3 + after + 3 * scores_and_sum
    )  # two tokens' keys and values, one query
    assert count_operations(spec, samples=1, horizon=2, frames=3) == 2 * every + first + second


def test_operations_of_the_published_plan() -> None:
    """54.9 GFLOP by another count, which includes queries of lone tokens."""
    spec = import_model(models.lewm_model()).spec
    assert count_operations(spec, samples=300, horizon=5, frames=1) == pytest.approx(54.9e9, rel=0.02)


def test_operations_of_mlp_dynamics() -> None:
    """In the first step the candidates share the latent, so its part of the first layer is computed once for all."""
    spec = specs.mlp(0, E=24, A=3)
    weights = sum(dense.weight.numel() for dense in (*spec.action, *spec.head))
    shared = 24 * spec.head[0].weight.shape[0]
    assert count_operations(spec, samples=5, horizon=4, frames=1) == 5 * 2 * (4 * weights - shared)


# ---- what is measured is one problem ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("reduce", ["last", "min"])
def test_the_peers_rollout_is_the_models(K: int, reduce: str) -> None:
    torch.manual_seed(0)
    model = WorldModel(WorldModelConfig.preset("small", action_dim=2, embed_dim=24, width=24)).eval()
    torch.nn.init.normal_(model.pred_proj.fc2.weight, std=0.1)  # type: ignore[union-attr]
    setting = Setting("some", S=7, T=5, K=K, elites=3, reduce=reduce)  # type: ignore[arg-type]
    module = problems.Predictor(model)
    problem = make_problem(module, setting)
    with torch.no_grad():
        found = RowCosts(module, reduce)(*rows(problem, problem.actions))
        latents = model.rollout(problem.context, problem.actions, problem.past)
    every = (latents - problem.goal[:, None, None]).square().sum(-1)[0]
    torch.testing.assert_close(found, every[:, -1] if reduce == "last" else every.amin(-1))


@pytest.mark.parametrize("model", ["small", "demo-push", "demo-two-room", "tdmpc2-5m"])
def test_module_and_spec_are_the_same_predictor(model: str) -> None:
    setting = Setting(model, S=5, T=4)
    module, spec = problems.module(model), problems.spec(model)
    problem = make_problem(spec, setting)
    found = RowCosts(module, "last")(*rows(problem, problem.actions))
    latents = reference_rollout(spec, problem.context, problem.actions, problem.past)[0, :, -1]
    torch.testing.assert_close(found, (latents - problem.goal).square().sum(-1), rtol=1e-4, atol=0)


def test_a_wrong_way_gets_no_time() -> None:
    """Each dtype's limit: costs in another order fail everywhere, costs out by a hundredth only in float32."""
    setting = Setting("tdmpc2-5m", S=64, T=2, elites=6)
    exact = truth(problems.module("tdmpc2-5m"), setting)
    costs = dict(
        zip(
            map(id, (problem.actions for problem, _ in exact.draws)), (c for _, c in exact.draws), strict=True
        )
    )

    def off(problem: problems.Problem, actions: torch.Tensor) -> torch.Tensor:
        return costs[id(actions)] * 1.01

    def other_order(problem: problems.Problem, actions: torch.Tensor) -> torch.Tensor:
        return costs[id(actions)].flip(-1)

    assert not exact.check(off, "fastwm", "float32").passed
    assert exact.check(off, "openvino", "bfloat16").passed
    assert exact.check(off, "fastwm", "int8") == Agreement(True, pytest.approx(0.01), 1.0, 0.0)
    for dtype in ("float32", "bfloat16", "int8"):
        assert not exact.check(other_order, "openvino", dtype).passed

    def not_finite(problem: problems.Problem, actions: torch.Tensor) -> torch.Tensor:
        return torch.full_like(costs[id(actions)], torch.nan)

    for dtype in ("float32", "bfloat16", "int8"):
        assert not exact.check(not_finite, "fastwm", dtype).passed


# ---- results ---------------------------------------------------------------------------------------------------------------


def test_lines_of_the_same_commit_and_machine_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "rollout.json"
    machine = dict.fromkeys(run.PLACE, "a")
    old = {"model": "lewm", "B": 1, "S": 300, "T": 5, "K": 1, "threads": 1, "way": "torch", "repeats": 1}
    other, again = {**old, "way": "fastwm"}, {**old, "repeats": 2}
    run.save(path, {"machine": machine, "results": [old, other]})
    assert run.merged(path, machine, [again]) == [other, again]
    assert run.merged(path, {**machine, "commit": "b"}, [again]) == [again]
    assert run.merged(tmp_path / "none.json", machine, [again]) == [again]
