"""Builds `fastwm._cuda` from its CUDA sources with a C++ compiler, to run on the CPU (csrc/emulation), and loads it.

Objects and modules are kept under build/emulation, named by a hash of what they are made of: a changed kernel compiles alone.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pybind11

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "emulation"
COMPILER = os.environ.get("CXX", "g++")
FLAGS = ["-x", "c++", "-std=c++17", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
FLAGS += ["-DFASTWM_EMULATE", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
# Of kernels alone: the runtime tells the sanitizers what they need to know, and pybind11 is not ours to check.
SANITIZERS = {
    None: [],
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"],
    "thread": ["-fsanitize=thread"],
}


def build(
    sanitizer: str | None = None, csrc: Path = ROOT / "csrc", sources: list[Path] | None = None
) -> Path:
    """Compile the emulated module and return its path. sanitizer: None, "address" (with undefined behaviour) or "thread".

    sources: other kernels and their bind.cpp, instead of csrc/cuda. Raises RuntimeError with the compiler's words.
    """
    if sources is None:
        sources = [*sorted((csrc / "cuda").glob("*.cu")), csrc / "cuda" / "bind.cpp"]
    units = [(path, [*FLAGS, *(SANITIZERS[sanitizer] if path.suffix == ".cu" else [])]) for path in sources]
    units += [(path, [*FLAGS, "-O2"]) for path in sorted((csrc / "emulation").glob("*.cpp"))]
    headers = _headers(csrc)
    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(lambda unit: _compile(*unit, csrc, headers), units))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    module = CACHE / _hash(*(path.name for path in objects)) / f"_cuda{suffix}"
    if not module.exists():
        module.parent.mkdir(parents=True, exist_ok=True)
        # The sanitizer's library is not linked: the process that loads the module has it (LD_PRELOAD).
        _made([COMPILER, "-shared", "-Wl,-z,lazy", *map(str, objects)], module)
    return module


def load() -> ModuleType:
    """The emulated module, from now on `fastwm._cuda` in this process."""
    import fastwm

    module = _loaded()
    sys.modules["fastwm._cuda"] = module
    fastwm._cuda = module  # type: ignore[attr-defined]
    return module


@functools.cache
def _loaded() -> ModuleType:
    # A name of its own: pybind11 gives what it has under a name already, nvcc's module if that was loaded before.
    return import_module(build(), "emulated._cuda")


def import_module(path: Path, name: str = "_cuda") -> ModuleType:
    """The module in a file; its name ends as the file's begins."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _headers(csrc: Path) -> str:
    paths = [
        path for path in sorted(csrc.rglob("*")) if path.suffix in (".h", ".cuh") and "cpu" not in path.parts
    ]
    return _hash(*(part for path in paths for part in (path.name, path.read_text())))


def _compile(source: Path, flags: list[str], csrc: Path, headers: str) -> Path:
    includes = [f"-I{csrc}", f"-I{sysconfig.get_path('include')}", f"-I{pybind11.get_include()}"]
    command = [_compiler(), *flags]
    key = _hash(*command, *includes[1:], headers, source.name, source.read_text())
    target = CACHE / "objects" / f"{source.stem}-{key}.o"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Messages name files as the repository does, wherever a copy of it lies.
        _made([*command, *includes, f"-ffile-prefix-map={csrc}=csrc", "-c", str(source)], target)
    return target


def _made(command: list[str], target: Path) -> None:
    """Run the command, which writes to `-o`, so that nobody ever sees half a target."""
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unfinished = Path(folder) / target.name
        result = subprocess.run([*command, "-o", str(unfinished)], capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
        os.replace(unfinished, target)


@functools.cache
def _compiler() -> str:
    path = shutil.which(COMPILER)
    if path is None:
        raise RuntimeError(f"the emulation needs a C++ compiler, {COMPILER} was not found")
    return path


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
