"""Writes bench/gpu.md from counts, from machine code, and from what bench/results/gpu holds: python -m bench.gpu.page [--check]

Nothing is measured here. What nobody has measured stays empty.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.gpu.counts import Started, Work, total
from bench.gpu.place import ROOT, Size
from bench.gpu.run import FOLDER
from bench.gpu.training import CLIPS
from bench.record import read, write

if TYPE_CHECKING:
    from bench.gpu.launches import Launches

PAGE = ROOT / "bench" / "gpu.md"
DTYPE = "bfloat16"
SIZES = Size(1), Size(50)
ARCHITECTURE = 90  # of the registers and the occupancy shown
SAME_CODE = {"head": "mlp", "norm_dense": "qkv", "attention": "attention_bf16"}  # by what code they are


class Card(NamedTuple):
    """What its maker says: bytes per second, dense bfloat16 operations per second with float32 sums."""

    name: str
    bandwidth: float
    products: float


CARDS = Card("H100 SXM", 3.35e12, 989e12), Card("RTX 4090", 1.01e12, 165e12)

HEAD = """# What a plan costs on a GPU

Written by `python -m bench.gpu.page`. The sizes are LeWM's: 300 candidates, 30 iterations, 5 blocks ahead, context of one
frame, {dtype}. Bytes, operations and launches are counted from what each launcher was given; registers and occupancy are read
from the machine code for sm_{architecture}. Times are measured on whoever's card, and **a time that nobody has measured is an
empty cell**: `python -m bench.run --backend cuda` measures and writes bench/results/gpu, `python -m bench.gpu.page` then
writes this page.

A floor is the larger of bytes over the memory's bandwidth and operations over the peak of dense {dtype} products, by the
card's data sheet: {cards}. A kernel's floor is from a cold
L2, as it is measured alone; in a plan its inputs are in L2, where they fit, and it may be faster.
"""


OF_AN_ITERATION = "All launches of one iteration; and, from the fourth column on, the heaviest one.\n"

# What each kernel is measured beside, by the names that bench/gpu/run.py gives (`engine` of a line).
PYTORCH = "fastwm", "torch eager", "torch.compile"
GRAPHS = *PYTORCH, "torch, CUDA graph", "torch.compile, CUDA graph"
PEERS = {
    "cem_sample": PYTORCH,
    "rollout": GRAPHS,
    "attention": (*PYTORCH, "torch SDPA", "torch FlexAttention"),
    "goal_cost": PYTORCH,
    "cem_update": PYTORCH,
    "plan": GRAPHS,
    "adaln": PYTORCH,
    "gated_residual": PYTORCH,
}
FLOAT32 = "cem_sample", "goal_cost", "cem_update"  # in no other dtype
TRAINING = "adaln", "gated_residual"  # of one size, a batch


class Static(NamedTuple):
    """Of a kernel's machine code; empty where it has not been built."""

    registers: str = ""
    occupancy: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page; with --check compare it and return 1 if it is out of date."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail if the page would change")
    parsed = parser.parse_args(arguments)
    text = page()
    if not parsed.check:
        write(PAGE, text)
        return 0
    same = PAGE.is_file() and PAGE.read_text() == text
    if same:
        print(f"{PAGE.relative_to(ROOT)} is up to date")
    else:
        print(f"{PAGE.relative_to(ROOT)} is out of date: python -m bench.gpu.page", file=sys.stderr)
    return 0 if same else 1


def page() -> str:
    """The page's text. Raises ImportError without Triton, whose kernels are counted and compiled."""
    from bench.gpu import choices, launches

    times = measured(FOLDER)
    code = static()
    with launches.nowhere():
        theirs = launches.pytorch(SIZES[0])
        ours = launches.solve(SIZES[0], DTYPE)
        iterations = {size: launches.iteration(size, DTYPE) for size in SIZES}
        others = {size: launches.alone(size, DTYPE) for size in SIZES}
        weights = launches.engine(SIZES[0], DTYPE).info()["weight_bytes"]
    cards = "; ".join(
        f"{card.name} {card.bandwidth / 1e12:.2f} TB/s and {card.products / 1e12:.0f} TFLOP/s"
        for card in CARDS
    )
    parts = [
        HEAD.format(dtype=DTYPE, architecture=ARCHITECTURE, cards=cards),
        "## Launches of one solve\n",
        *_launches(theirs, ours),
        "\n## One solve\n",
        *_solves(iterations, weights, times),
        "\n## Beside PyTorch\n",
        *_peers(beside(FOLDER)),
    ]
    for size, started in iterations.items():
        parts += [f"\n## Kernels, B = {size.B}\n", OF_AN_ITERATION, *_kernels(size, started, code, times)]
        parts += [
            "",
            "No part of a rollout, at the sizes of one:\n",
            *_kernels(size, others[size], code, times),
        ]
    return "\n".join([*parts, "", *choices.lines()]) + "\n"


def _launches(theirs: Launches, ours: Launches) -> Iterator[str]:
    yield "The number does not depend on B or on the number of candidates."
    yield ""
    yield "| | fastwm's kernels | PyTorch's operations | calls of the host |"
    yield "|---|---|---|---|"
    for name, found in (("PyTorch, eager", theirs), ("fastwm", ours)):
        yield f"| {name} | {found.kernels:,} | {found.operations:,} | {found.calls:,} |"
    yield ""
    yield "An operation of PyTorch that is counted starts at least one kernel. fastwm's solve is one CUDA graph, which the host"
    yield "starts after it has copied the problem to where the graph reads it. A layer is three kernels a step."


def _solves(iterations: dict[Size, list[Started]], weights: int, times: dict) -> Iterator[str]:
    yield "The floor of the work, which need move no more than the weights; and the floors of its kernels, one after another,"
    yield "as if none found anything in L2: what lies between is what L2 may save, or fewer and larger kernels."
    yield ""
    cards = " | ".join(f"floor {card.name}, ms | its kernels', ms" for card in CARDS)
    yield f"| B | kernels | TFLOP | weights, MB | {cards} | measured, ms |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for size, started in iterations.items():
        operations = size.iterations * sum(one.work.operations for one in started)
        work = Work(weights, operations)  # all else need not leave L2, or is little
        alone = {card: size.iterations * sum(floor(one.work, card) for one in started) for card in CARDS}
        floors = " | ".join(f"{1e3 * floor(work, card):.2f} | {1e3 * alone[card]:.2f}" for card in CARDS)
        found = _shown(times.get(("plan", size.B)))
        kernels = size.iterations * len(started)
        yield f"| {size.B} | {kernels:,} | {operations / 1e12:.2f} | {weights / 1e6:.1f} | {floors} | {found} |"


def _kernels(size: Size, started: list[Started], code: dict[str, Static], times: dict) -> Iterator[str]:
    cards = " | ".join(f"floor {card.name}, µs" for card in CARDS)
    yield f"| kernel | launches | GFLOP, all | MB, one | GFLOP, one | {cards} | registers | occupancy | measured, µs |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for name, all_of_it in total(started).items():
        heaviest = max(one.work for one in started if one.name == name)
        floors = " | ".join(f"{1e6 * floor(heaviest, card):.2f}" for card in CARDS)
        used = code.get(SAME_CODE.get(name, name), Static())
        found = times.get((name, size.B)) or times.get((f"rollout {name}", size.B))
        yield (
            f"| {name} | {all_of_it.launches} | {all_of_it.operations / 1e9:.2f} | {heaviest.bytes / 1e6:.2f} | "
            f"{heaviest.operations / 1e9:.2f} | {floors} | {used.registers} | {used.occupancy} | {_shown(found, 1e3)} |"
        )


def _peers(found: dict[tuple[str, int, str], str]) -> Iterator[str]:
    engines = list(dict.fromkeys(engine for ways in PEERS.values() for engine in ways))
    yield "Median milliseconds of a call: of `plan` as its caller sees it, of all others from a cold L2; of adaln and"
    yield f"gated_residual forward and backward, of a batch of {CLIPS} clips. A dash: there is no such way."
    yield ""
    yield f"| kernel | dtype | B | {' | '.join(engines)} |"
    yield f"|---|---|---|{'---|' * len(engines)}"
    for kernel, ways in PEERS.items():
        dtype = "float32" if kernel in FLOAT32 else DTYPE
        for B in [CLIPS] if kernel in TRAINING else [size.B for size in SIZES]:
            cells = (found.get((kernel, B, engine), "") if engine in ways else "–" for engine in engines)
            yield f"| {kernel} | {dtype} | {B} | {' | '.join(cells)} |"


def beside(folder: Path) -> dict[tuple[str, int, str], str]:
    """By kernel, B and engine the cell of the table of peers: milliseconds, or why there are none."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        for line in read(path)["results"]:
            if line["dtype"] == ("float32" if line["kernel"] in FLOAT32 else DTYPE):
                refused = "failed" if "failure" in line else "disagrees"
                cell = f"{line['milliseconds']['median']:.4g}" if "milliseconds" in line else refused
                found[line["kernel"], line["B"], line["engine"]] = cell
    return found


def floor(work: Work, card: Card) -> float:
    """Seconds."""
    return max(work.bytes / card.bandwidth, work.operations / card.products)


def _shown(lines: list[tuple[str, float]] | None, scale: float = 1.0) -> str:
    return "; ".join(f"{scale * ms:.4g} ({gpu})" for gpu, ms in lines or [])


def measured(folder: Path) -> dict[tuple[str, int], list[tuple[str, float]]]:
    """By kernel and B: the card, and the median milliseconds of fastwm's way in the page's dtype, in float32 if that is all."""
    found: dict[tuple[str, int], list[tuple[str, float]]] = {}
    for path in sorted(folder.glob("*.json")):
        content = read(path)
        lines = [line for line in content["results"] if line["engine"] == "fastwm" and "milliseconds" in line]
        for line in sorted(lines, key=lambda line: line["dtype"] == DTYPE):
            found[line["kernel"], line["B"]] = [(content["machine"]["gpu"], line["milliseconds"]["median"])]
    return found


def static() -> dict[str, Static]:
    """By kernel, of the code that these sizes run: from the least to the most."""
    folder = str(ROOT / "tests" / "gpu")
    if folder not in sys.path:
        sys.path.append(folder)
    import aot
    import cubin

    found: dict[str, list[tuple[int, float]]] = {}
    library = importlib.util.find_spec("fastwm._cuda")
    if library is not None and library.origin is not None:
        for kernel in cubin.read(Path(library.origin)):
            if kernel.architecture == ARCHITECTURE:
                name = re.split(r"_kernel|<", kernel.name)[0]
                found.setdefault(name, []).append((kernel.registers, kernel.occupancy()))
    for variant in aot.variants():
        name = variant.kernel.__name__.removeprefix("_")
        if variant.kernel.__module__.startswith("fastwm.triton.rollout") and "float32" not in str(variant):
            compiled: Any = aot.compile_for(variant, ARCHITECTURE)
            found.setdefault(name, []).append((compiled.kernel.registers, compiled.occupancy))
    return {
        name: Static(
            _range(str(registers) for registers, _ in sorted(used)),
            _range(f"{100 * share:.0f} %" for share in sorted(share for _, share in used)),
        )
        for name, used in found.items()
    }


def _range(values: Iterable[str]) -> str:
    """Of values in order."""
    first, *others = dict.fromkeys(values)
    return f"{first} to {others[-1]}" if others else first


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ImportError as error:
        print(f"{error}; `make test-gpu` sets up an environment that has it", file=sys.stderr)
        sys.exit(2)
