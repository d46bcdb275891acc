"""The CUDA module as it was built: it loads where no driver is, says what is missing, and refuses to run without crashing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import small_config

import fastwm
from fastwm.engine import backend
from fastwm.engine.cuda import device
from fastwm.models import WorldModel

ROOT = Path(__file__).parents[1]
PINS = re.findall(r'"(nvidia-[\w-]+)==([\d.*]+)"', (ROOT / "pyproject.toml").read_text())


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """fastwm._cuda as nvcc built it, whatever another test has put in its place."""
    monkeypatch.delitem(sys.modules, "fastwm._cuda", raising=False)
    monkeypatch.delattr(fastwm, "_cuda", raising=False)
    try:
        return backend.cuda_module()
    except ImportError as error:
        pytest.skip(str(error))


@pytest.fixture
def no_driver(module: Any) -> Any:
    if module.describe()["driver"]:
        pytest.skip("there is a CUDA driver")
    return module


def run(*command: str, **options: Any) -> subprocess.CompletedProcess:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


# ---- what was built


def kernels(module: Any) -> dict[str, int]:
    """Functions that start a kernel, and how many arguments each takes."""
    names = [name for name, value in vars(module).items() if callable(value) and name != "describe"]
    signatures = {name: getattr(module, name).__doc__.partition("->")[0] for name in names}
    return {name: len(re.findall(r"arg\d+:", text)) for name, text in signatures.items() if "arg0: " in text}


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm")
def test_nothing_of_cuda_is_looked_for_when_it_is_loaded(module: Any) -> None:
    """Neither libcuda nor libcudart is needed, and no symbol of theirs is left open."""
    assert not re.search(r"libcu\w+", run("ldd", module.__file__, check=True).stdout)
    opened = run("nm", "--dynamic", "--undefined-only", module.__file__, check=True).stdout
    assert not re.findall(r" (?:__)?cu\w+", opened)


def test_it_says_what_it_was_built_for(module: Any) -> None:
    described = module.describe()
    assert set(described) == {"runtime", "driver", "architectures", "error", "devices"}
    assert described["runtime"] >= 12080
    assert described["architectures"].split() == ["80-real", "90a-real", "100-real", "120"]


# ---- where no driver is


def test_a_missing_driver_is_named(no_driver: Any) -> None:
    described = no_driver.describe()
    assert (described["driver"], described["error"], described["devices"]) == (0, "no CUDA driver", [])
    found = fastwm.info()
    assert (found["cuda_driver"], found["gpus"]) == ("none", ["none (no CUDA driver)"])


LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_cuda", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""


def test_kernels_without_a_driver_raise_their_name(no_driver: Any) -> None:
    """In a process of its own, since a crash is what is feared. Addresses are never read: the launch is refused before."""
    found = kernels(no_driver)
    assert found
    for name, count in found.items():
        code = LOAD + f"module.{name}(0, 0, {', '.join('1' * (count - 2))})"
        ended = run(sys.executable, "-c", code, no_driver.__file__)
        assert ended.returncode == 1, (name, ended.stderr)
        assert re.search(rf"RuntimeError: .*{name}.*", ended.stderr), ended.stderr


def test_the_backend_asked_for_by_name_says_what_is_missing(no_driver: Any) -> None:
    with pytest.raises((RuntimeError, ImportError), match=r"no CUDA driver|triton"):
        backend.backend("cuda")


# ---- what info says


def info_with(monkeypatch: pytest.MonkeyPatch, module: object) -> dict:
    monkeypatch.setitem(sys.modules, "fastwm._cuda", module)
    monkeypatch.setattr(fastwm, "_cuda", module, raising=False)
    return backend.cuda_info()


def test_info_of_a_machine_with_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = {"name": "NVIDIA H100", "capability": (9, 0), "processors": 132, "memory": 80 * 2**30}
    described = {
        "runtime": 13000,
        "driver": 13020,
        "architectures": "90a-real",
        "error": "",
        "devices": [gpu],
    }
    found = info_with(monkeypatch, gpu_module(described))
    assert found["cuda"] == "built for sm_90a"
    assert (found["cuda_runtime"], found["cuda_driver"]) == ("13.0", "13.2")
    assert found["gpus"] == ["NVIDIA H100 (sm_90, 132 processors, 80 GiB)"]


def a_machine(
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: str = "",
    torch_cuda: str | None = "13.0",
    available: bool = True,
    capability: tuple[int, int] = (9, 0),
    built: bool = True,
) -> None:
    """What CUDA, PyTorch and the build say of a machine with one GPU, a T4 by name."""
    gpu = {"name": "T4", "capability": capability, "processors": 40, "memory": 16 * 2**30}
    described = {
        "runtime": 13000,
        "driver": 13000,
        "architectures": "80-real 90a-real 100-real 120",
        "error": error,
        "devices": [] if error else [gpu],
    }
    module = gpu_module(described)
    if built:
        monkeypatch.setattr(fastwm, "_cuda", module, raising=False)
    else:
        monkeypatch.delattr(fastwm, "_cuda", raising=False)
    monkeypatch.setitem(sys.modules, "fastwm._cuda", module if built else None)
    monkeypatch.setattr(torch.version, "cuda", torch_cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "T4")
    monkeypatch.delenv("FASTWM_BACKEND", raising=False)
    found = backend.importlib.util.find_spec  # type: ignore[attr-defined]
    specs = {"triton": True, "fastwm._cuda": built or None}
    monkeypatch.setattr(
        backend.importlib.util,  # type: ignore[attr-defined]
        "find_spec",
        lambda name: specs[name] if name in specs else found(name),
    )


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        ({"error": "no CUDA driver", "available": False}, "no CUDA driver"),
        # PyTorch's runtime may be older than the module's, and content with the driver.
        ({"error": "cudaErrorInsufficientDriver: too old"}, "cudaErrorInsufficientDriver: too old"),
        ({"available": False, "torch_cuda": None}, "is built without CUDA"),
        ({"available": False}, "finds no GPU"),
        ({"capability": (7, 5)}, "T4 is sm_75, expected sm_80 or newer"),
        ({"capability": (11, 0)}, r"T4 \(sm_110\); fastwm._cuda was built for sm_80, sm_90a, .* and newer"),
        # Another build of the module mends none of these.
        ({"built": False, "available": False, "torch_cuda": None}, "is built without CUDA"),
        ({"built": False, "available": False}, "finds no GPU"),
        ({"built": False, "capability": (7, 5)}, "sm_75, expected sm_80 or newer"),
    ],
)
def test_a_gpu_that_cannot_run_it_is_not_taken(
    machine: dict, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_machine(monkeypatch, **machine)
    assert backend.backend("auto") == "cpu"
    assert re.search(words, str(backend.why_not_gpu()))
    with pytest.raises(RuntimeError, match=f"backend 'cuda' cannot run here: .*{words}"):
        backend.backend("cuda")
    here = machine.get("available", True)
    engine = fastwm.compile(small_model())
    assert ("there is a GPU, but" in engine.info()["why"]["backend"]) == here
    found = fastwm.info()
    assert found["backend"] == "cpu"
    seen = here or (machine.get("built", True) and "error" not in machine)  # by PyTorch, or by the module
    assert ("cuda_unused" in found) == seen
    assert not seen or re.search(words, found["cuda_unused"])
    monkeypatch.setenv("FASTWM_BACKEND", "cuda")
    assert re.search(words, fastwm.info()["backend"])


def test_with_a_gpu_the_missing_module_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    a_machine(monkeypatch, built=False)
    assert backend.backend("auto") == "cpu"
    with pytest.raises(ImportError, match=r"without its CUDA module fastwm\._cuda"):
        backend.backend("cuda")
    assert "FASTWM_CUDA=ON" in fastwm.info()["cuda_unused"]


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 3), (12, 1), (13, 0)])
def test_a_gpu_that_can_run_it_is_taken(capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    a_machine(monkeypatch, capability=capability)
    assert backend.backend("auto") == "cuda"
    assert "cuda_unused" not in fastwm.info()


@pytest.mark.parametrize(
    ("built", "words", "runs", "does_not"),
    [
        ("80-real", "sm_80", [(8, 0), (8, 6), (8, 9)], [(7, 5), (9, 0), (12, 0)]),
        ("86-real", "sm_86", [(8, 6), (8, 9)], [(8, 0)]),
        ("90a-real", "sm_90a", [(9, 0)], [(8, 0), (10, 0)]),
        ("80-real 100", "sm_80, sm_100 and newer", [(8, 0), (10, 0), (10, 3), (11, 0), (12, 0)], [(9, 0)]),
    ],
)
def test_which_gpus_a_build_is_for(built: str, words: str, runs: list, does_not: list) -> None:
    """By NVIDIA's rules: machine code within a major version from its minor one on, PTX for all that is newer."""
    assert device.architectures(built) == words
    assert all(device.covers(built, capability) for capability in runs)
    assert not any(device.covers(built, capability) for capability in does_not)


def gpu_module(described: dict) -> types.ModuleType:
    module = types.ModuleType("fastwm._cuda")
    module.emulated = False  # type: ignore[attr-defined]
    module.describe = lambda: described  # type: ignore[attr-defined]
    return module


def small_model() -> WorldModel:
    return WorldModel(small_config()).eval()


def test_info_of_a_build_without_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(fastwm, "_cuda", raising=False)
    monkeypatch.setitem(sys.modules, "fastwm._cuda", None)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    found = backend.cuda_info()
    assert "without its CUDA module fastwm._cuda" in found["cuda"]
    assert "FASTWM_CUDA=ON" in found["cuda"]
    assert "gpus" not in found


def test_sources_that_hide_an_installed_package_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("_cpu", "_cuda"):
        monkeypatch.delattr(fastwm, name, raising=False)
        monkeypatch.setitem(sys.modules, f"fastwm.{name}", None)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    for module in (backend.cpu_module, backend.cuda_module):
        monkeypatch.setattr(fastwm, "__file__", str(tmp_path / "fastwm" / "__init__.py"))
        with pytest.raises(ImportError, match="fastwm was installed without its") as plain:
            module()
        assert "sources" not in str(plain.value)
        (tmp_path / "CMakeLists.txt").touch()
        with pytest.raises(ImportError, match=r"you import the sources in .*, not an installed package"):
            module()
        (tmp_path / "CMakeLists.txt").unlink()


def test_a_module_that_does_not_load_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    (tmp_path / f"_cuda{suffix}").write_bytes(b"not a library")
    monkeypatch.delattr(fastwm, "_cuda", raising=False)
    monkeypatch.delitem(sys.modules, "fastwm._cuda", raising=False)
    monkeypatch.setattr(fastwm, "__path__", [str(tmp_path), *fastwm.__path__])
    # An editable install finds the module that it built, whatever the path says.
    finders = [finder for finder in sys.meta_path if not type(finder).__module__.startswith("_editable")]
    monkeypatch.setattr(sys, "meta_path", finders)
    with pytest.raises(ImportError, match=r"is there and does not load: .*_cuda"):
        backend.cuda_module()


def test_info_names_triton() -> None:
    assert isinstance(fastwm.info()["triton"], str)
    assert torch.__version__ == fastwm.info()["torch"]


# ---- how it is built


def test_the_compilers_wheels_are_named_twice_and_are_the_same() -> None:
    """As an extra, for builds without isolation, and for builds in isolation; all of one minor version."""
    assert len(PINS) == 10
    assert PINS[:5] == PINS[5:]
    assert len({version for _, version in PINS}) == 1


def configure(folder: Path, choice: str) -> subprocess.CompletedProcess:
    """What CMake says where no nvcc is."""
    cmake, path = shutil.which("cmake"), "/usr/bin:/bin"
    pybind11 = pytest.importorskip("pybind11")
    if cmake is None or shutil.which("nvcc", path=path):
        pytest.skip("no cmake, or an nvcc among the system's programs")
    if any(
        list(Path(place).glob("nvidia/cu*/bin/nvcc")) for place in [*sys.path, sysconfig.get_path("purelib")]
    ):
        pytest.skip("an nvcc among this environment's packages")
    given = {
        "FASTWM_CUDA": choice,
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
    }
    environment = {name: value for name, value in os.environ.items() if name != "CUDACXX"} | {"PATH": path}
    definitions = [f"-D{name}={value}" for name, value in given.items()]
    return run(cmake, "-S", str(ROOT), "-B", str(folder), *definitions, env=environment)


def test_without_nvcc_the_module_is_left_out(tmp_path: Path) -> None:
    ended = configure(tmp_path, "AUTO")
    assert ended.returncode == 0, ended.stderr
    assert "fastwm is built without fastwm._cuda: no nvcc in CUDACXX, on PATH, or from pip" in ended.stdout


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("ON", r"fastwm\._cuda cannot be built: no nvcc"),
        ("yes", r"FASTWM_CUDA is 'yes', expected\s+AUTO, ON or OFF"),
    ],
)
def test_what_cannot_be_built_is_refused(tmp_path: Path, choice: str, said: str) -> None:
    ended = configure(tmp_path, choice)
    assert ended.returncode != 0
    assert re.search(said, ended.stderr), ended.stderr
