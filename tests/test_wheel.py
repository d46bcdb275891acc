"""What is installed: one version, a module that needs only the system's libraries, a quick import, a command."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastwm
from fastwm import _cpu
from fastwm.engine.backend import cuda_module
from fastwm.engine.cuda.device import architectures


def run(*arguments: str) -> str:
    return subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120).stdout


def test_one_version() -> None:
    assert importlib.metadata.version("fastwm") == fastwm.__version__


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_the_module_needs_only_the_systems_libraries() -> None:
    """No libtorch: one wheel serves every torch. No libstdc++: it is linked in."""
    check_needed(_cpu.__file__)


@pytest.mark.skipif(shutil.which("readelf") is None, reason="no readelf")
def test_the_cuda_module_needs_no_cuda_to_be_loaded() -> None:
    """Nor does the CUDA module need libcuda or libcudart, where the wheel has one."""
    try:
        module = cuda_module()
    except ImportError as error:
        pytest.skip(str(error))
    check_needed(module.__file__)


def check_needed(library: str) -> None:
    needed = re.findall(r"\(NEEDED\).*\[(.+?)\]", run("readelf", "--dynamic", library))
    assert needed
    assert {name.partition(".")[0] for name in needed} <= {
        "libc",
        "libm",
        "libpthread",
        "libdl",
        "librt",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }


def test_importing_takes_little_more_than_importing_torch() -> None:
    """Counted in modules: `import fastwm` loads few that torch did not, and nothing of training or planning."""
    count = "import sys, torch; before = set(sys.modules); import fastwm; print(*sorted(set(sys.modules) - before))"
    loaded = run(sys.executable, "-c", count).split()
    assert all(name.startswith("fastwm") for name in loaded), loaded
    assert len(loaded) <= 3, loaded


def test_every_public_name_is_there() -> None:
    for name in fastwm.__all__:
        assert getattr(fastwm, name) is not None, name
    with pytest.raises(AttributeError, match="module 'fastwm' has no attribute 'nothing'"):
        _ = fastwm.nothing


def test_the_command_says_what_runs() -> None:
    command = Path(sys.executable).with_name("fastwm")
    printed = run(str(command), "info")
    for word in ("backend", "isa", "threads", "torch", fastwm.__version__):
        assert word in printed
    said = re.search(r"^cuda +(.+)$", printed, re.MULTILINE)
    assert said is not None
    try:
        expected = f"built for {architectures(cuda_module().describe()['architectures'])}"
    except ImportError as error:
        expected = str(error)
    assert said[1] == expected


def test_bench_runs_from_the_installed_package() -> None:
    """Away from the repository, whose bench/ is fastwm.bench there."""
    command = [str(Path(sys.executable).with_name("fastwm")), "bench", "--quick", "--threads", "1", "--quiet"]
    names = ["cem_sample", "rollout_mlp", "goal_cost", "cem_update"]
    found = subprocess.run(
        [*command, *names], capture_output=True, text=True, check=True, timeout=120, cwd="/"
    )
    for name in ("cem_sample", "rollout", "goal_cost", "cem_update"):
        assert re.search(rf"^{name} .* ×", found.stdout, re.MULTILINE), found.stdout


def test_a_plan_from_the_installed_package() -> None:
    """In a new process, away from the source: a model, an engine, a plan."""
    code = """
import json, torch, fastwm
model = fastwm.WorldModel(fastwm.WorldModelConfig.preset("small", action_dim=2)).eval()
planner = fastwm.Planner(fastwm.compile(model), fastwm.CEM(samples=16, elites=4, iterations=2), horizon=3)
frame = torch.zeros(64, 64, 3, dtype=torch.uint8)
plan = planner.plan(frame, frame)
print(json.dumps([list(plan.actions.shape), bool(plan.actions.isfinite().all())]))
"""
    found = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=120, cwd="/"
    )
    assert json.loads(found.stdout) == [[1, 3, 2], True]
