"""What `fastwm bench` measures: every kernel agrees, and one that does not gets no time."""

from __future__ import annotations

import pytest
import torch

from bench import kernels
from bench.command import rows
from fastwm import ops
from fastwm.engine.pack import DTYPES


@pytest.mark.parametrize("name", ["cem_sample", "rollout_small", "rollout_mlp", "goal_cost", "cem_update"])
def test_every_kernel_agrees_on_every_instruction_set(name: str, isa: str) -> None:
    torch.set_num_threads(1)
    bench = kernels.KERNELS[name](isa, 1)
    found = bench.compare()
    assert set(found) == set(bench.ways) == set(DTYPES if name.startswith("rollout") else ["float32"])
    assert all(agreement.passed for agreement in found.values()), found


def test_what_does_not_agree_gets_no_time(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    right = ops.goal_cost
    monkeypatch.setattr(ops, "goal_cost", lambda *a, **k: right(*a, **k) * 1.001)
    (lines,) = kernels.results(("goal_cost",), isa=isa, threads=1, repeats=1)
    ours, plain = lines
    assert (ours["passed"], plain["passed"]) == (False, True)
    assert "milliseconds" not in ours
    assert ours["relative_cost_error"] == pytest.approx(1e-3, rel=0.01)
    (row,) = rows(lines)
    assert "no time is given" in row
    assert "×" not in row.removeprefix("goal_cost  300 × 192")


def test_times_stand_beside_the_fastest_pytorch_in_that_dtype_or_float32() -> None:
    def line(engine: str, dtype: str, ms: float) -> dict:
        times = {"min": ms, "median": ms + 10, "q1": ms, "q3": ms + 20}
        common = {
            "kernel": "rollout",
            "size": "x",
            "engine": engine,
            "dtype": dtype,
            "passed": True,
            "milliseconds": times,
        }
        return {**common, "relative_cost_error": 3e-7, "efficiency": 0.5}

    lines = [line("fastwm", "float32", 2.0), line("fastwm", "int8", 1.0)]
    float32, int8 = rows([*lines, line("PyTorch", "float32", 8.0), line("PyTorch", "bfloat16", 5.0)])
    assert "float32     4.0 ×" in float32
    assert "bfloat16    5.0 ×" in int8
    assert "3e-7" in int8
    assert "50%" in int8


def test_a_number_that_is_not_finite_agrees_with_nothing() -> None:
    error = kernels.relative_error(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 1.0]))
    assert not error <= 1e9
