"""What the matrix products' inner loops are made of: `python -m bench.disassembly`.

Reads the object files of the last build with objdump. For every instruction set and dtype, the largest innermost loop of the
products (its rows and sums are all that registers hold): multiplications, loads of weights, broadcasts of activations,
prefetches, integer instructions, and spills, which are vectors or addresses that pass through the stack.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

BUILD = Path(__file__).parents[1] / "build"
MULTIPLY = {
    "float32": re.compile(r"vfmadd\d+ps|mulps"),
    "bfloat16": re.compile(r"vdpbf16ps|vfmadd\d+ps|mulps"),
    "int8": re.compile(r"vpdpbusd|v?pmaddwd"),
}
ELEMENT = {"float": "float32", "bf16": "bfloat16", "byte": "int8"}


@dataclass(frozen=True)
class Loop:
    """Instructions of one innermost loop, by kind."""

    isa: str
    dtype: str
    multiply: int
    load: int  # of vectors that are not broadcast
    broadcast: int
    prefetch: int
    stack: int
    other: int

    @property
    def total(self) -> int:
        return self.multiply + self.load + self.broadcast + self.prefetch + self.stack + self.other


def objects() -> dict[str, Path]:
    """rollout's object file of each instruction set, from the newest build."""
    found = sorted(
        BUILD.glob("*/CMakeFiles/cpu_*.dir/csrc/cpu/rollout.cpp.o"), key=lambda p: p.stat().st_mtime
    )
    return {path.parts[-4].removeprefix("cpu_").removesuffix(".dir"): path for path in found}


def loops(isa: str, path: Path) -> Iterator[Loop]:
    """The largest loop of each dtype's products over k, which prefetches two lines a step."""
    listing = subprocess.run(
        ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    best: dict[str, Loop] = {}
    for name, body in re.findall(r"^[0-9a-f]+ <(.*)>:\n((?:.+\n)+)", listing, re.MULTILINE):
        product = re.search(rf"{isa}::gemm<fastwm::{isa}::(bf16|byte)|{isa}::gemm<(float)", name)
        if product is None:
            continue
        dtype = ELEMENT[product[1] or product[2]]
        for instructions in innermost(body):
            loop = classify(isa, dtype, instructions)
            if (
                loop.multiply
                and loop.prefetch == 2
                and (dtype not in best or loop.multiply > best[dtype].multiply)
            ):
                best[dtype] = loop
    yield from (best[dtype] for dtype in MULTIPLY if dtype in best)


def innermost(body: str) -> Iterator[list[str]]:
    """Instructions between the target of a jump backwards and the jump, where no other such span lies inside."""
    lines = [(int(at, 16), text) for at, text in re.findall(r"^\s*([0-9a-f]+):\s+(.*)$", body, re.MULTILINE)]
    place = {at: i for i, (at, _) in enumerate(lines)}
    spans = []
    for i, (at, text) in enumerate(lines):
        jump = re.match(r"j\w+\s+([0-9a-f]+)", text)
        if jump and int(jump[1], 16) <= at and int(jump[1], 16) in place:
            spans.append((place[int(jump[1], 16)], i))
    for first, last in spans:
        if not any(first <= a and b <= last and (a, b) != (first, last) for a, b in spans):
            yield [text for _, text in lines[first : last + 1]]


def classify(isa: str, dtype: str, instructions: list[str]) -> Loop:
    count = dict.fromkeys(("multiply", "load", "broadcast", "prefetch", "stack", "other"), 0)
    for text in instructions:
        name = text.split()[0]
        if re.search(r"\(%rsp|\(%rbp", text) and not name.startswith("lea"):
            kind = "stack"
        elif MULTIPLY[dtype].match(name):
            kind = "multiply"
        elif name.startswith("prefetch"):
            kind = "prefetch"
        elif "broadcast" in name or name in ("movss", "shufps", "pshufd"):
            kind = "broadcast"
        elif re.match(r"v?mov[dua]", name) and re.search(r"\(.*\),%[xyz]mm", text):
            kind = "load"
        else:
            kind = "other"
        count[kind] += 1
    return Loop(isa, dtype, **count)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    if shutil.which("objdump") is None:
        sys.exit("bench.disassembly needs objdump (binutils)")
    found = objects()
    if not found:
        sys.exit(f"no build tree under {BUILD.name}/: run `make install` first")
    columns = ("multiply", "load", "broadcast", "prefetch", "stack", "other", "total")
    print(f"{'':13}{'':10}" + "".join(f"{name:>10}" for name in columns))
    for isa, path in found.items():
        for loop in loops(isa, path):
            print(f"{isa:13}{loop.dtype:10}" + "".join(f"{getattr(loop, name):10}" for name in columns))


if __name__ == "__main__":
    main()
