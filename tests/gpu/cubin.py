"""What a compiled kernel uses, read from its machine code without a driver, by tools that come with Triton.

`read(path)` for a cubin or for a shared object with several architectures in it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from occupancy import RESERVED_SHARED, occupancy

KERNEL = re.compile(r"^ Function (\S+):\n\s+(REG:.*)$", re.M)
INSTRUCTION = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.M)
TENSOR_CORE = ("HMMA", "HGMMA", "UTCHMMA", "IMMA", "IGMMA", "QGMMA", "OMMA", "DMMA", "UTCQMMA")


@dataclass
class Kernel:
    """One kernel for one architecture: registers of a thread, the rest in bytes; instructions as they stand in the code."""

    name: str
    architecture: int
    registers: int
    stack: int
    local: int
    shared: int  # static
    threads: int  # the most that a block may have, by __launch_bounds__; 0: not said
    instructions: Counter[str] = field(
        default_factory=Counter, repr=False
    )  # by opcode with its suffixes; empty: unreadable

    def count(self, *opcodes: str, suffix: str = "") -> int:
        """Instructions whose opcode is one of these and that have the suffix."""
        return sum(
            n for name, n in self.instructions.items() if name.partition(".")[0] in opcodes and suffix in name
        )

    @property
    def spills(self) -> int:
        """Loads and stores of local memory: registers spilled, or arrays that are not in registers."""
        return self.count("LDL", "STL")

    @property
    def wide_loads(self) -> float | None:
        """Share of loads from global memory that take 128 bits; None where there are none."""
        loads = self.count("LDG")
        return self.count("LDG", suffix=".128") / loads if loads else None

    @property
    def tensor_cores(self) -> dict[str, int]:
        """Matrix instructions by kind."""
        return {kind: self.count(kind) for kind in TENSOR_CORE if self.count(kind)}

    def occupancy(self, threads: int = 0, dynamic_shared: int = 0) -> float:
        """Share of a multiprocessor's warps that are resident with blocks of `threads` (default: the most allowed)."""
        return occupancy(
            self.architecture, threads or self.threads, self.registers, self.shared + dynamic_shared
        )


@functools.cache
def tool(name: str) -> str:
    """The path of a CUDA binary tool in Triton's wheel. Raises FileNotFoundError."""
    triton = importlib.util.find_spec("triton")
    path = Path(triton.origin).parent / "backends/nvidia/bin" / name if triton and triton.origin else None
    if path is None or not path.exists():
        raise FileNotFoundError(f"{name}: not in Triton's wheel (pip install triton==3.9.0)")
    return str(path)


def read(path: Path, architecture: int = 0) -> list[Kernel]:
    """Every kernel of a shared object for every architecture in it, or of a cubin for the architecture given.

    Names are demangled, without arguments. Raises RuntimeError with the tool's words if it cannot read the file.
    """
    kernels: dict[tuple[int, str], Kernel] = {}
    for target, text in _sections(_run("cuobjdump", "-res-usage", path), architecture):
        for name, line in KERNEL.findall(text):
            used = {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", line)}
            shared = max(
                0, used["SHARED"] - (RESERVED_SHARED if target >= 90 else 0)
            )  # counted from sm_90 on
            resources = (used["REG"], used["STACK"], used["LOCAL"], shared)
            kernels[target, name] = Kernel(name, target, *resources, threads=0)
    for target, text in _sections(_run("cuobjdump", "-sass", path), architecture):
        for part in text.split("\t\tFunction : ")[1:]:
            name, _, code = part.partition("\n")
            kernels[target, name.strip()].instructions.update(INSTRUCTION.findall(code))
    for target, text in _sections(_run("cuobjdump", "-elf", path), architecture):
        for name, threads in _launch_bounds(text):
            kernels[target, name].threads = threads
    plain = _run("c++filt", *{name for _, name in kernels}).splitlines() if kernels else []
    names = dict(zip({name for _, name in kernels}, plain, strict=True))
    for (_, mangled), kernel in kernels.items():
        kernel.name = _short(names[mangled])
    return sorted(kernels.values(), key=lambda kernel: (kernel.name, kernel.architecture))


def _short(name: str) -> str:
    """A demangled name without return type, namespace, casts of template arguments, and arguments."""
    return re.sub(r"^void |fastwm::|\([^()]*\)(?=\d)", "", name).partition("(")[0]


def _sections(text: str, architecture: int) -> list[tuple[int, str]]:
    """The parts of cuobjdump's output, by architecture; a cubin has one and does not say which."""
    parts = re.split(r"^arch = sm_(\d+)[a-z]*$", text, flags=re.M)
    return [(int(parts[i]), parts[i + 1]) for i in range(1, len(parts), 2)] or [(architecture, text)]


def _launch_bounds(text: str) -> list[tuple[str, int]]:
    found = []
    for section in re.split(r"^\.nv\.info\.", text, flags=re.M)[1:]:
        bounds = re.search(r"EIATTR_(?:MAX_THREADS|REQNTID)\s+Format:\s+EIFMT_SVAL\s+Value:\s+(.*)", section)
        if bounds:
            found.append(
                (section.split(maxsplit=1)[0], math.prod(int(n, 16) for n in bounds.group(1).split()))
            )
    return found


def _run(name: str, *arguments: object) -> str:
    command = [name if name == "c++filt" else tool(name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def bank_conflicts(path: Path, limit: int = 2) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """Shared memory's bank conflicts, as cuxray finds them in the code: those of more than `limit` ways, as lines of text, and
    for each kernel and architecture how many accesses it could judge and how many not.

    An access of 8 bytes takes two passes in any case, so two ways are no fault.
    """
    environment = {
        **os.environ,
        "CUXRAY_NO_FETCH": "1",
        "CUXRAY_TOOLCHAIN": str(Path(tool("cuobjdump")).parent),
    }
    command = [sys.executable, "-m", "cuxray", "report", str(path), "--fast", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    found, judged = [], {}
    for unit in json.loads(done.stdout)["units"]:
        for kernel in unit["kernels"]:
            name, access = f"{_short(kernel['demangled'])} {unit['arch']}", kernel["access"]
            if access is None:  # no launch bounds, which `violations` names
                continue
            judged[name] = access["analyzed_count"], access["unanalyzed_count"]
            for site in access["by_site"]:
                if (site["conflict_ways"] or 0) > limit:
                    found.append(
                        f"{name}: {site['conflict_ways']} ways at {Path(site['file']).name}:{site['line']}"
                    )
    return found, judged


def violations(kernels: list[Kernel]) -> list[str]:
    """What no kernel of fastwm may do: spill, use local memory, or have no launch bounds or more than fit a block."""
    found = []
    for kernel in kernels:
        name = f"{kernel.name} sm_{kernel.architecture}"
        for what in ("spills", "local", "stack"):
            if getattr(kernel, what):
                found.append(f"{name}: {what} {getattr(kernel, what)}, expected 0")
        if not kernel.instructions:
            found.append(f"{name}: its code cannot be read")
        if not kernel.threads:
            found.append(f"{name}: no __launch_bounds__")
        elif not kernel.occupancy():
            found.append(
                f"{name}: {kernel.registers} registers, {kernel.shared} bytes: a block of {kernel.threads} does not fit"
            )
    return found


def row(kernel: Kernel) -> dict[str, str | int | float]:
    """A line of the table."""
    return {
        "kernel": kernel.name,
        "architecture": f"sm_{kernel.architecture}",
        "threads": kernel.threads,
        "registers": kernel.registers,
        "stack": kernel.stack,
        "spills": kernel.spills,
        "shared": kernel.shared,
        "occupancy": round(kernel.occupancy(), 2) if kernel.threads else 0.0,
        "instructions": sum(kernel.instructions.values()),
        "tensor cores": " ".join(f"{kind} {n}" for kind, n in kernel.tensor_cores.items()),
    }
