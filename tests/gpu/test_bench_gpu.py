"""The GPU benchmarks: rehearsed from start to end, and what they count against counts by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the GPU's rollout needs triton")

ROOT = Path(__file__).parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from bench import problems  # noqa: E402
from bench.agreement import Agreement  # noqa: E402
from bench.gpu import launches, page, run  # noqa: E402
from bench.gpu.counts import FORMULAS, Started, Work, starts, total  # noqa: E402
from bench.gpu.kernels import Case  # noqa: E402
from bench.gpu.place import Place, Size  # noqa: E402
from bench.operations import count_operations  # noqa: E402
from bench.record import save  # noqa: E402
from bench.run import GPU_STEMS  # noqa: E402
from fastwm import ops  # noqa: E402


def bench(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "bench.run", "--backend", "cuda", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT)


@pytest.mark.slow
def test_the_rehearsal_runs_everything_and_writes_nothing() -> None:
    before = {path: path.stat().st_mtime_ns for path in (ROOT / "bench" / "results").rglob("*")}
    ended = bench("--rehearse")
    assert ended.returncode == 0, ended.stderr
    assert {path: path.stat().st_mtime_ns for path in (ROOT / "bench" / "results").rglob("*")} == before
    lines = [line for line in ended.stdout.splitlines() if " B 2 " in line]
    assert {line.split()[0] for line in lines} == set(run.CASES)
    assert all(line.endswith(" rehearsed") for line in lines), ended.stdout
    for peer in ("fastwm", "torch eager", "torch.compile", "torch, CUDA graph", "torch.compile, CUDA graph"):
        for dtype in ("float32", "bfloat16"):
            assert any(line.startswith("plan ") and f" {peer} {dtype} " in line for line in lines), (
                peer,
                dtype,
            )
    for engine in ("fastwm", "torch SDPA", "torch FlexAttention", "torch eager", "torch.compile"):
        assert any(line.startswith("attention ") and f" {engine} " in line for line in lines), engine
    for kernel in ("tokens", "dense", "qkv", "attend", "mlp", "head"):
        assert any(line.startswith(f"rollout {kernel} ") for line in lines), kernel
    for kernel, engines in page.PEERS.items():
        ways = [line.partition(" B 2 ")[2].split() for line in lines if line[:18].strip() == kernel]
        assert {" ".join(way[:-2]) for way in ways} == set(engines), kernel
    assert " ms " not in ended.stdout
    assert ended.stdout.splitlines()[-1] == f"8 stems, {len(lines)} ways rehearsed, nothing written"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_line() -> None:
    ended = bench()
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "CUDA" in line or "finds no GPU" in line
    assert line.endswith("; --rehearse runs everything without a GPU")


def test_an_unknown_kernel_is_named() -> None:
    with pytest.raises(ValueError, match=r"unknown dance; known are cem_sample, rollout"):
        run.main(["dance"], repeats=1, rehearse=True)


# ---- counts


def test_counts_of_sampling_cost_and_refit(gpu: torch.device) -> None:
    """By hand: B 2, S 7, T 3, A 5, E 4, 3 elites; float32 is 4 bytes."""
    mean, std = torch.zeros(2, 3, 5, device=gpu), torch.ones(2, 3, 5, device=gpu)
    costs, latents, goal = (torch.ones(*shape, device=gpu) for shape in ((2, 7), (2, 7, 3, 4), (2, 4)))

    def iteration() -> None:
        actions = ops.cem_sample(mean, std, 7, 0, 0)
        ops.goal_cost(latents, goal, reduce="min")
        ops.goal_cost(latents, goal, reduce="last")
        ops.cem_update(actions, costs, mean, std, 3)

    found = {name: (one.bytes, one.operations, one.launches) for name, one in counted(iteration).items()}
    assert found["cem_sample"] == (4 * (2 * 2 * 15 + 2 * 7 * 15), 0, 1)
    all_steps, last = 2 * 7 * 3 * 4, 2 * 7 * 4
    assert found["goal_cost"] == (4 * (all_steps + last + 2 * (8 + 14)), 3 * (all_steps + last), 2)
    read, written = 14 + 2 * 3 * 15 + 2 * 2 * 15, 2 * 2 * 15 + 2 + 2 * 2
    assert found["cem_update"][0] == 4 * (read + written) + 8 * 2 * 3


def counted(work: object) -> dict[str, Work]:
    return total(starts(work))  # type: ignore[arg-type]


def test_counts_of_a_product() -> None:
    x, weight, bias, out = torch.ones(2, 3, 5), torch.ones(7, 5), torch.ones(7), torch.ones(2, 3, 7)
    given = {"x": x, "weight": weight, "bias": bias, "out": out, "last": None, "rows": 6, "N": 7, "K": 5}
    assert FORMULAS["dense"](given) == (4 * (30 + 35 + 7 + 42), 2 * 6 * 7 * 5)


def test_counts_of_attention() -> None:
    """Two asking tokens of 3 candidates; the first own token has been there, one context frame is shared: 3 and 4 are seen."""
    inner, W = 8, 5
    given = {
        "query": torch.ones(6, inner),
        "shared": torch.ones(1, 1, 2 * inner),
        "own": torch.ones(4, 3, 2 * inner),
        "weight": torch.ones(W, inner),
        "bias": torch.ones(W),
        "gate": torch.ones(6, W),
        "x": torch.ones(6, W),
        "rows": 6,
        "candidates": 3,
        "first": 1,
        "W": W,
    }
    moved, operations = FORMULAS["attend"](given)
    assert moved == 4 * (6 * inner + 2 * inner + 3 * 3 * 2 * inner + W * inner + W + 3 * 6 * W)
    assert operations == 4 * inner * (3 + 4) * 3 + 2 * 6 * inner * W


def test_counts_of_a_training_kernel() -> None:
    """What is None is not moved."""
    x, statistics, y = torch.ones(6, 5), torch.ones(4, 6), torch.ones(6, 5, dtype=torch.bfloat16)
    given = {"x_rows": x, "shift_rows": x[:2], "scale_rows": x[:2], "gain": None, "bias": None, "y": y}
    assert FORMULAS["adaln_forward"]({**given, "statistics": statistics}) == (4 * (30 + 20 + 24) + 2 * 30, 0)
    assert FORMULAS["gated_backward"]({"inputs": [x, x], "dgate": x[:1], "dy": y})[0] == 4 * 65 + 2 * 30


def test_counts_of_attention_of_a_few_tokens() -> None:
    """R 2, n 5, H 3, D 8 in bfloat16: causal sees 1 .. 5, frames of two tokens 2, 2, 4, 4, 5, no mask 5 each."""
    for frame, seen in ((1, 15), (2, 17), (0, 25)):
        given = {"arguments": (1, 2, 3, 4, 2, 5, 3, 8, *range(12), frame, 0.5, 1)}
        assert FORMULAS["attention"](given) == (4 * 2 * 5 * 3 * 8 * 2, 4 * 2 * 3 * 8 * seen)


def test_a_kernel_without_a_count_is_named() -> None:
    with pytest.raises(ValueError, match="kernel 'dance' has no count"):
        _ = Started("dance", lambda: None, {}).work


# ---- lines


def test_a_way_that_disagrees_gets_no_time(gpu: torch.device) -> None:
    ways = {("fastwm", "float32"): lambda: None, ("torch eager", "float32"): lambda: pytest.fail("timed")}
    case = Case(
        "k", Size(1), ways, lambda key: Agreement(key[0] == "fastwm", 0.5), work={"float32": Work(10, 0)}
    )
    peaks = {"dram": 1e9, "l2": 1e9, "bfloat16": 1e9, "tf32": 1e9, "float32": 1e9}
    good, bad = run.measure(case, Place(gpu, rehearsal=True), peaks, 2)
    assert good["milliseconds"]["median"] >= 0
    assert (bad["passed"], bad["relative_cost_error"]) == (False, 0.5)
    assert "milliseconds" not in bad
    assert "disagrees by 5.0e-01, no time is given" in run.describe(bad, rehearsal=False)


def test_a_peer_that_fails_is_named_and_fastwms_failure_is_raised(gpu: torch.device) -> None:
    def agree(key: tuple[str, str]) -> Agreement:
        raise RuntimeError(f"{key[0]} has no memory\nmore words")

    peaks = dict.fromkeys(("dram", "l2", "bfloat16", "tf32", "float32"), 1e9)
    here = Place(gpu, rehearsal=True)
    (line,) = run.measure(Case("k", Size(1), {("torch eager", "float32"): int}, agree), here, peaks, 1)
    assert (line["passed"], line["failure"]) == (False, "RuntimeError: torch eager has no memory")
    assert "failed, RuntimeError: torch eager has no memory" in run.describe(line, rehearsal=True)
    with pytest.raises(RuntimeError, match="fastwm has no memory"):
        list(run.measure(Case("k", Size(1), {("fastwm", "float32"): int}, agree), here, peaks, 1))


def test_efficiency_is_the_floor_over_the_time() -> None:
    """10 MB at 1 TB/s are 10 us; 1 GFLOP is 1 us in bfloat16, 6 us in three products of tf32 each a half."""
    peaks = {"dram": 1e12, "l2": 1e13, "bfloat16": 1e15, "tf32": 5e14, "float32": 1e14}
    case = Case(
        "k",
        Size(1),
        {},
        lambda key: None,
        work={"bfloat16": Work(10**7, 10**9), "float32": Work(10**5, 10**9)},
    )
    assert run.efficiency(case, "bfloat16", 0.02, peaks)["floor_milliseconds"] == 0.01
    assert run.efficiency(case, "bfloat16", 0.02, peaks)["efficiency"] == 0.5
    assert run.efficiency(case, "float32", 0.02, peaks)["floor_milliseconds"] == 0.006


# ---- the page

TINY = Size(2, S=6, T=4, elites=2, iterations=3, model="small")  # E 64, 3 layers, a window of 3


def test_a_solve_is_one_graph_of_three_kernels_a_layer_and_step() -> None:
    """Besides: sampling, cost and refit, the action encoder's two products and the modulation, tokens and a head a step."""
    with launches.nowhere():
        found = launches.solve(TINY, "bfloat16")
        each = total(launches.iteration(TINY, "bfloat16"))
    layers = len(problems.spec("small").layers)
    assert {name: work.launches for name, work in each.items()} == {
        "cem_sample": 1,
        "dense": 3,
        "tokens": TINY.T,
        "qkv": layers * TINY.T,
        "attend": layers * TINY.T,
        "mlp": layers * TINY.T,
        "head": TINY.T,
        "goal_cost": 1,
        "cem_update": 1,
    }
    assert found.kernels == TINY.iterations * sum(work.launches for work in each.values())
    assert 1 < found.calls <= 1 + 12


def test_counted_operations_are_those_of_the_work() -> None:
    """The launchers' sizes and the formula of the CPU's benchmark, which knows no launcher; the window slides in both."""
    spec = problems.spec("small")
    with launches.nowhere():
        counted = sum(one.work.operations for one in launches.rollout(TINY, "float32"))
    expected = TINY.B * count_operations(spec, TINY.S, TINY.T, 1)
    assert expected <= counted <= 1.04 * expected


def test_pytorch_starts_as_much_for_any_number_of_candidates() -> None:
    small = Size(1, S=8, T=2, elites=2, iterations=2, model="tiny")
    found = launches.pytorch(small)
    assert found.calls == found.operations > 2 * 2 * 10
    again = launches.pytorch(Size(3, S=20, T=2, elites=4, iterations=3, model="tiny"))
    assert (again.operations - 1) * 2 == (found.operations - 1) * 3  # one is the first std


def test_a_time_that_nobody_measured_is_an_empty_cell(tmp_path: Path) -> None:
    started = [Started("normalise", lambda: None, {"x": torch.ones(4, 8), "out": torch.ones(4, 8)})] * 3
    kernels = list(page._kernels(Size(1), started, {"normalise": page.Static("40", "75 %")}, {}))
    assert kernels[-1].endswith("| 40 | 75 % |  |")
    line = {"kernel": "rollout normalise", "B": 1, "engine": "fastwm", "milliseconds": {"median": 0.0025}}
    lines = [line | {"dtype": "bfloat16"}, line | {"dtype": "float32", "milliseconds": {"median": 7.0}}]
    lines += [line | {"engine": "torch eager", "dtype": "bfloat16", "milliseconds": {"median": 9.0}}]
    save(tmp_path / "rollout.json", {"machine": {"gpu": "A card"}, "results": lines})
    kernels = list(page._kernels(Size(1), started, {}, page.measured(tmp_path)))
    assert kernels[-1].endswith("|  |  | 2.5 (A card) |")
    assert page.measured(tmp_path / "nowhere") == {}


def test_the_table_of_peers_says_what_was_measured(tmp_path: Path) -> None:
    assert set(page.PEERS) == set(run.CASES) == set(GPU_STEMS)
    line = {"kernel": "adaln", "B": page.CLIPS, "dtype": "bfloat16"}
    lines = [
        line | {"engine": "fastwm", "milliseconds": {"median": 0.01234}},
        line | {"engine": "fastwm", "dtype": "float32", "milliseconds": {"median": 7.0}},
        line | {"engine": "torch eager"},
        line | {"engine": "torch.compile", "failure": "RuntimeError: no memory"},
    ]
    save(tmp_path / "adaln.json", {"machine": {"gpu": "A card"}, "results": lines})
    rows = list(page._peers(page.beside(tmp_path)))
    (row,) = (row for row in rows if row.startswith("| adaln "))
    assert row == "| adaln | bfloat16 | 128 | 0.01234 | disagrees | failed | – | – | – | – |"
    (empty,) = (row for row in rows if row.startswith("| attention | bfloat16 | 50 "))
    assert empty == "| attention | bfloat16 | 50 |  |  |  | – | – |  |  |"


def test_the_page_without_triton_ends_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise ImportError('there is no triton')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "bench.gpu.page", "--check"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=ROOT, env=environment)
    assert ended.returncode == 2
    assert ended.stderr == "there is no triton; `make test-gpu` sets up an environment that has it\n"


def test_a_floor_is_the_larger_of_two() -> None:
    card = page.Card("", bandwidth=1e12, products=1e14)
    assert page.floor(Work(10**6, 0), card) == 1e-6
    assert page.floor(Work(10**6, 10**9), card) == 1e-5
