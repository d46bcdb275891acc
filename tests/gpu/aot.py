"""Triton's kernels compiled ahead of time for GPUs that are not here, and a budget for what comes out.

tests/gpu/variants/<stem>.py lists `VARIANTS`; test_aot.py compiles each for each target. A variant is compiled with what a
normal launch tells the compiler (pointers divisible by 16, ones as constants): without, it would be about another kernel.
TRITON_INTERPRET must not be set: it is read when `@triton.jit` decorates.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cubin

# Said aloud, because Triton 3.10 changes what it is when nobody says: a multiply and an add may become one.
os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"

NVIDIA = (80, 90, 100, 120)
AMD = "gfx942"
TARGETS = (*NVIDIA, AMD)
VARIANTS = Path(__file__).parent / "variants"


@dataclass(frozen=True)
class Budget:
    """What a variant may use. `tensor_cores`: kinds of instruction of which there must be one ("HMMA", "HGMMA", "UTCHMMA").

    registers: of a thread; stack and shared: bytes; spills: instructions that touch local memory; wide_loads: the least share
    of loads from global memory that take 128 bits; copies: cp.async or TMA instructions, at least; occupancy: the least.
    """

    registers: int = 255
    stack: int = 0
    spills: int = 0
    shared: int = 99 << 10  # what a block may have on every target
    wide_loads: float = 0.0
    copies: int = 0
    tensor_cores: tuple[str, ...] = ()
    occupancy: float = 0.0


@dataclass(frozen=True)
class Variant:
    """A kernel with the types and constants of one kind of launch.

    types: for each parameter that is not constant its type: "*bf16", "fp32", "i32", or "i32:16" if a multiple of 16;
    pointers are multiples of 16 unless they say otherwise ("*bf16:4"). constants: constexpr parameters, and integers that are 1
    and pointers that are None. but: what is otherwise in the budget of a target, {90: {"tensor_cores": ("HGMMA",)}}.
    amd: constants that are others there.
    """

    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    warps: int = 4
    stages: int = 3
    budget: Budget = Budget()
    but: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    amd: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.kernel.__name__

    def budget_for(self, target: int) -> Budget:
        return replace(self.budget, **self.but.get(target, {}))


@dataclass(frozen=True)
class Compiled:
    """A variant for one target; `kernel` is None where its machine code cannot be read (AMD)."""

    variant: Variant
    target: int | str
    shared: int
    kernel: cubin.Kernel | None

    @property
    def occupancy(self) -> float:
        return (
            self.kernel.occupancy(self.variant.warps * 32, self.shared - self.kernel.shared)
            if self.kernel
            else 0.0
        )

    @property
    def copies(self) -> int:
        """Instructions that copy from global to shared memory in the background."""
        return self.kernel.count("LDGSTS", "UTMALDG", "UBLKCP") if self.kernel else 0

    def row(self) -> dict[str, Any]:
        """A line of the table."""
        line: dict[str, Any] = {
            "kernel": str(self.variant),
            "target": str(self.target),
            "warps": self.variant.warps,
        }
        if self.kernel is None:
            return line
        wide = self.kernel.wide_loads
        return line | {
            "registers": self.kernel.registers,
            "stack": self.kernel.stack,
            "spills": self.kernel.spills,
            "shared": self.shared,
            "wide loads": None if wide is None else round(wide, 2),
            "copies": self.copies,
            "tensor cores": " ".join(f"{kind} {n}" for kind, n in self.kernel.tensor_cores.items()),
            "occupancy": round(self.occupancy, 2),
            "instructions": sum(self.kernel.instructions.values()),
        }


def compile_for(variant: Variant, target: int | str) -> Compiled:
    """Compile for a compute capability (90) or an AMD GPU ("gfx942"). Raises what Triton raises, and ValueError for types."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    kernel = variant.kernel
    while not isinstance(kernel, JITFunction) and hasattr(kernel, "fn"):
        kernel = kernel.fn  # heuristics around it
    if not isinstance(kernel, JITFunction):
        raise ValueError(f"{variant}: {type(kernel).__name__}, expected a kernel: is TRITON_INTERPRET set?")
    signature, attributes = {}, {}
    for i, name in enumerate(kernel.arg_names):
        if (name in variant.types) == (name in variant.constants):
            raise ValueError(f"{variant}: parameter {name} must be in `types` or in `constants`")
        if name in variant.constants:
            signature[name] = "constexpr"
            continue
        signature[name], _, divisor = variant.types[name].partition(":")
        if divisor == "16" or (not divisor and signature[name].startswith("*")):
            attributes[(i,)] = [["tt.divisibility", 16]]
    constants = {**variant.constants, **(variant.amd if target == AMD else {})}
    gpu = GPUTarget("hip", target, 64) if isinstance(target, str) else GPUTarget("cuda", target, 32)
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    built = triton.compile(
        source, target=gpu, options={"num_warps": variant.warps, "num_stages": variant.stages}
    )
    if "cubin" not in built.asm:
        return Compiled(variant, target, built.metadata.shared, None)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        (code,) = cubin.read(Path(file.name), int(target))
    return Compiled(variant, target, built.metadata.shared, code)


def violations(compiled: Compiled) -> list[str]:
    """What is over the variant's budget, in words."""
    kernel = compiled.kernel
    if kernel is None:
        return []
    budget = compiled.variant.budget_for(int(compiled.target))
    found = []
    used = {
        "registers": kernel.registers,
        "stack": kernel.stack,
        "spills": kernel.spills,
        "shared": compiled.shared,
    }
    for what, number in used.items():
        if number > getattr(budget, what):
            found.append(f"{what} {number}, at most {getattr(budget, what)}")
    wide = kernel.wide_loads
    least = {
        "copies": compiled.copies,
        "occupancy": compiled.occupancy,
        "wide_loads": 1.0 if wide is None else wide,
    }
    for what, number in least.items():
        if number < getattr(budget, what):
            found.append(f"{what} {number:.3g}, at least {getattr(budget, what)}")
    for kind in budget.tensor_cores:
        if kind not in kernel.tensor_cores:
            found.append(f"no {kind}; tensor cores: {kernel.tensor_cores or 'unused'}")
    return [f"{compiled.variant} sm_{compiled.target}: {line}" for line in found]


def variants() -> list[Variant]:
    """Those of all files in tests/gpu/variants."""
    stems = sorted(path.stem for path in VARIANTS.glob("[a-z]*.py"))
    return [variant for stem in stems for variant in importlib.import_module(f"variants.{stem}").VARIANTS]
