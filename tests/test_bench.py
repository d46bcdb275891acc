"""The benchmarks run, and count operations right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import specs
import torch

ROOT = Path(__file__).parents[1]


def test_the_quick_run_prints_times_and_writes_nothing() -> None:
    results = ROOT / "bench" / "results"
    before = {path: path.read_bytes() for path in results.glob("*.json")}
    command = [sys.executable, "-m", "bench.run", "goal_cost", "cem_update", "--quick", "--threads", "1"]
    printed = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    ).stdout
    for word in ('"isa"', '"commit"', "torch ", "fastwm ", " ms "):
        assert word in printed
    assert "parity failed" not in printed
    assert before == {path: path.read_bytes() for path in results.glob("*.json")}


def test_operations_of_one_step_are_those_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block from one frame: every weight is used once, but those of queries, which a lone token does not need."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.bench_rollout import count_operations

    spec = specs.transformer(0, E=24, W=33, L=2, H=2, D=12, M=40)
    layers = [layer for part in spec.layers for layer in (part.modulation, part.out, part.fc1, part.fc2)]
    weights = [*spec.action, *spec.head, *layers, spec.input]
    keys_values = 2 * 33 * 2 * 12 * len(spec.layers)
    expected = 2 * (sum(dense.weight.numel() for dense in weights if dense is not None) + keys_values)
    assert count_operations(spec, samples=7, horizon=1, frames=1) == 7 * expected


def test_operations_of_the_published_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """54.9 GFLOP by another count, which includes queries of lone tokens."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.bench_rollout import count_operations, published_model
    from fastwm.engine.importers import import_model

    with torch.random.fork_rng():
        spec = import_model(published_model()).spec
    assert count_operations(spec, samples=300, horizon=5, frames=1) == pytest.approx(54.9e9, rel=0.02)
