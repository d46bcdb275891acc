"""Faults planted in the guard's own kernels and in what it checks: its tests must see them as well."""

from mutants import Mutant

SHADOW, GUARD, KERNELS = (f"tests/gpu/{name}.py" for name in ("shadow", "guard", "guard_kernels"))
BFLOAT16 = "tests/gpu/bfloat16_repair.py"

MUTANTS = [
    Mutant("bounds of the span alone", SHADOW, 'bad |= ~a.own.take(index, mode="clip")', "pass"),
    Mutant("one past the end is inside", SHADOW, "(offset + size > a.own", "(offset > a.own"),
    Mutant("loads are forgotten", SHADOW, "        self._mark(cells, self._loads)\n", ""),
    Mutant("any atomic releases", GUARD, "acquire=acquire, release=release", "acquire=True, release=True"),
    Mutant("no atomic releases", SHADOW, "        if release:\n", "        if False:\n"),
    Mutant("bfloat16 by truncation", BFLOAT16, "if not truncate:", "if False:"),
    Mutant("TF32 keeps all bits", BFLOAT16, "0xFFFFE000", "0xFFFFFFFF"),
    Mutant("the order is always forward", GUARD, 'if self.order == "reverse":', "if False:"),
    Mutant(
        "a kernel without its mask",
        "tests/gpu/guard_kernels.py",
        "n + BLOCK if FAULTY else n",
        "n + BLOCK",
        ("values", "ttsem"),
    ),
]
