"""The rules of the code base that a machine can check: names, includes, symbols, environment variables, loading."""

from __future__ import annotations

import ast
import fnmatch
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPU = ROOT / "csrc" / "cpu"
CMAKE = (ROOT / "CMakeLists.txt").read_text()
PER_ISA = re.search(r"set\(KERNELS ([\w ]+)\)", CMAKE)[1].split()  # type: ignore[index]
ISAS = ["baseline", "avx2", "avx512", "avx512_bf16"]
INSTRUMENTS = [
    "fma_peak",
    "activate",
]  # compiled like kernels, but computing nothing that a reference could check
CPU_STEMS = sorted(set(PER_ISA) - set(INSTRUMENTS))
# Kernels in Triton: training, and models with many tokens. What they share begins with _.
TRITON_STEMS = sorted(path.stem for path in (ROOT / "fastwm" / "triton").glob("[a-z]*.py"))

# ---- one stem per kernel, everywhere -------------------------------------------------------------------------------------


PLACES = [
    *(
        (stem, place)
        for stem in CPU_STEMS
        for place in ("csrc/cpu/{}.cpp", "tests/test_{}.py", "bench/bench_{}.py")
    ),
    *(
        (stem, f"tests/gpu/{place}")
        for stem in TRITON_STEMS
        for place in ("test_{}.py", "variants/{}.py", "mutants/{}.py")
    ),
]


@pytest.mark.parametrize(("stem", "place"), PLACES)
def test_a_stem_has_the_same_name_everywhere(stem: str, place: str) -> None:
    assert (ROOT / place.format(stem)).is_file()


def test_every_kernel_has_a_reference_and_a_door() -> None:
    assert {"rollout", "cem_sample"} <= set(CPU_STEMS)
    for folder in ("reference", "ops"):
        found = sorted(path.stem for path in (ROOT / "fastwm" / folder).glob("[a-z]*.py"))
        assert found == sorted({*CPU_STEMS, *TRITON_STEMS}), folder


@pytest.mark.parametrize("stem", TRITON_STEMS)
def test_what_a_door_does_on_the_cpu_is_tested_without_triton(stem: str) -> None:
    assert any((ROOT / "tests" / name).is_file() for name in (f"test_{stem}.py", f"test_{stem}_op.py"))


# ---- what files include --------------------------------------------------------------------------------------------------

ALLOWED_IN_KERNELS = {"<cstddef>", "<cstdint>", "<cstring>", "<immintrin.h>"}


def includes(path: Path) -> list[str]:
    return re.findall(r"^\s*#\s*include\s+(\S+)", path.read_text(), re.MULTILINE)


def reached(path: Path, seen: set[Path]) -> set[Path]:
    """The file and all of our headers that it includes."""
    if path not in seen:
        seen.add(path)
        for name in includes(path):
            if name.startswith('"'):
                reached(ROOT / "csrc" / name.strip('"'), seen)
    return seen


@pytest.mark.parametrize("name", [*PER_ISA, "kernels"])
def test_kernel_files_include_no_library(name: str) -> None:
    """A weak symbol of a library compiled with AVX-512 might be chosen on a machine without it."""
    for path in reached(CPU / f"{name}.cpp", set()):
        foreign = {i for i in includes(path) if i.startswith("<")} - ALLOWED_IN_KERNELS
        assert not foreign, f"{path.relative_to(ROOT)} includes {sorted(foreign)}"


def test_only_bind_knows_python_and_nothing_knows_torch() -> None:
    for path in (ROOT / "csrc").rglob("*.*"):
        for name in includes(path):
            assert not re.search("torch|ATen|c10", name), f"{path.name} includes {name}"
            if re.search("pybind|Python", name):
                assert path.name == "bind.cpp", f"{path.name} includes {name}"


# ---- what the objects hold -----------------------------------------------------------------------------------------------

MEMORY = {"memcpy", "memmove", "memset", "memcmp", "_GLOBAL_OFFSET_TABLE_"}


def symbols(isa: str) -> Iterator[tuple[str, str, str]]:
    """(object, kind, mangled name) of the objects of one instruction set, from the last build."""
    nm = shutil.which("nm")
    objects = sorted(ROOT.glob(f"build/*/CMakeFiles/cpu_{isa}.dir/**/*.o"))
    if nm is None or not objects:
        pytest.skip("no nm, or not a build tree (make install makes one)")
    for path in objects:
        for line in subprocess.run(
            [nm, path], capture_output=True, text=True, check=True
        ).stdout.splitlines():
            *_, kind, name = line.split()
            yield path.name, kind, name


@pytest.mark.parametrize("isa", ISAS)
def test_every_symbol_lies_in_the_namespace_of_its_instruction_set(isa: str) -> None:
    mangled = re.compile(rf"_Z(GV|T[A-Z])?Z*NK?6fastwm{len(isa)}{isa}(?=\d)")
    defined = [(where, kind, name) for where, kind, name in symbols(isa) if kind in "TDBRWVui"]
    assert {kind for _, kind, _ in defined} >= {"T", "W"}, "kernels are functions, templates are weak"
    strangers = [entry for entry in defined if not mangled.match(entry[2])]
    assert not strangers


@pytest.mark.parametrize("isa", ISAS)
def test_kernels_allocate_nothing_and_call_no_library(isa: str) -> None:
    called = {name for _, kind, name in symbols(isa) if kind == "U"}
    assert {name for name in called if not name.startswith("_ZN6fastwm")} <= MEMORY


# ---- bench, which is fastwm.bench where it is installed --------------------------------------------------------------------


def test_what_fastwm_bench_needs_is_in_the_wheel() -> None:
    """Reached from bench/command.py: imported by relative names, and excluded by no pattern."""
    config = (ROOT / "pyproject.toml").read_text()
    excluded = ast.literal_eval(re.search(r"wheel.exclude = (\[.*?\n\])", config, re.DOTALL)[1])  # type: ignore[index]
    seen, waiting = set(), ["command"]
    while waiting:
        if (name := waiting.pop()) in seen:
            continue
        seen.add(name)
        assert not any(fnmatch.fnmatch(f"fastwm/bench/{name}.py", pattern) for pattern in excluded), name
        for node in ast.walk(ast.parse((ROOT / "bench" / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                waiting += [node.module] if node.module else [alias.name for alias in node.names]
            elif isinstance(node, ast.Import | ast.ImportFrom):
                roots = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
                assert not any(root.split(".")[0] == "bench" for root in roots), (
                    f"bench/{name}.py:{node.lineno}"
                )
    assert {"kernels", "latency", "scaling", "machine", "operations"} <= seen


# ---- environment variables and files ------------------------------------------------------------------------------------


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in (ROOT / "fastwm").rglob("*.py"):
        yield path, ast.parse(path.read_text())


def test_two_environment_variables() -> None:
    found = set()
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "putenv"):
                assert path.name in ("backend.py", "compile.py"), (
                    f"{path.relative_to(ROOT)} reads the environment"
                )
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"\bFASTWM_[A-Z_]+\b", node.value))
    assert found == {
        "FASTWM_BACKEND",
        "FASTWM_ISA",
        "FASTWM_CUDA",
    }  # the last is the build's, named in a message
    assert not any("getenv" in path.read_text() for path in (ROOT / "csrc").rglob("*.*"))


def test_nothing_is_pickled() -> None:
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
                assert not {"pickle", "dill", "cloudpickle", "joblib"} & set(names), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = [
                    k for k in node.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"
                ]
                assert safe, f"{path.relative_to(ROOT)}: torch.load without weights_only=True"


def test_errors_are_caught_by_kind() -> None:
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                kind = "" if node.type is None else ast.unparse(node.type)
                passed_on = ast.unparse(node.body[-1]) == "raise"  # cleaned up, then raised again
                broad = kind in ("", "Exception", "BaseException")
                assert passed_on or not broad, f"{path.relative_to(ROOT)}:{node.lineno}"
