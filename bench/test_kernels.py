"""The kernels under pytest-benchmark, so that runs can be compared over time; not part of `make test`.

.venv-peers/bin/pytest bench --benchmark-autosave
.venv-peers/bin/pytest bench --benchmark-compare --benchmark-group-by=param:name

`make bench` sets that environment up; any other needs `pip install pytest-benchmark`.
"""

from __future__ import annotations

import functools

import pytest
import torch

from bench.kernels import KERNELS, Agreement, Bench
from fastwm.engine.backend import isas
from fastwm.engine.pack import DTYPES

pytest.importorskip("pytest_benchmark", reason="needs the `bench` extra")
NAMES = [
    name for name in KERNELS if not name.startswith("plan")
]  # a plan runs on one instruction set alone: fastwm bench


@functools.lru_cache(maxsize=1)
def bench_of(name: str, isa: str) -> tuple[Bench, dict[str, Agreement]]:
    bench = KERNELS[name](isa, 1)
    return bench, bench.compare()


@pytest.mark.parametrize(
    ("name", "isa", "dtype"),
    [
        pytest.param(name, isa, dtype, id=f"{name}-{isa}-{dtype}")
        for name in NAMES
        for isa in isas()
        for dtype in (DTYPES if name.startswith("rollout") else ("float32",))
    ],
)
def test_kernel(benchmark, name: str, isa: str, dtype: str) -> None:  # type: ignore[no-untyped-def]
    torch.set_num_threads(1)
    bench, found = bench_of(name, isa)
    assert found[dtype].passed, f"relative cost error {found[dtype].error}"
    benchmark.extra_info["gflop"] = bench.operations / 1e9
    benchmark(bench.ways[dtype])
