"""Cost of a rollout against candidates, horizon, depth, width and threads: python -m bench.scaling [--repeats 3].

LeWM's predictor with one of its sizes changed at a time, each point behind a parity check, the dtypes of a point in turns;
the least of the repeats counts, since whatever else runs can only add.

Writes scaling.json, a Markdown page (scaling.md) and its picture (scaling.svg).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from fastwm.engine import backend
from fastwm.engine.importers import import_model
from fastwm.engine.pack import DTYPES, PackedPredictor
from fastwm.ops.rollout import rollout

from .agreement import rollout_agreements
from .bandwidth import bandwidth
from .machine import describe, doubts, header, peak
from .models import transformer
from .operations import count_operations
from .record import RESULTS, check_writable, save
from .scaling_page import fixed, write_page
from .timing import in_turns
from .traffic import tile_traffic

AXES = {
    "candidates": (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 97, 128, 192, 256, 300, 512, 1024),
    "horizon": (1, 2, 3, 4, 5, 6, 8, 10, 12, 16),
    "depth": (1, 2, 3, 4, 6, 8, 12),
    "width": (48, 96, 144, 192, 288, 384, 576),
    "threads": (1, 2, 4, 8, 16, 32, 64),
}
QUICK = {"candidates": (1, 4, 16), "horizon": (1, 4), "depth": (1, 2), "width": (48, 96)}
# What is not as in Point along an axis.
FIXED = {
    "width": {"depth": 2},
    "threads": {"S": 384},
}


@dataclasses.dataclass(frozen=True)
class Point:
    """One problem: B is 1, K is 1."""

    axis: str
    value: int
    S: int = 96
    T: int = 5
    depth: int = 6
    width: int = 192
    threads: int = 1

    @property
    def units(self) -> float:
        """What the cost is divided by. Width: the operations grow with its square, so the value itself is no unit."""
        return 1.0 if self.axis in ("width", "threads") else float(self.value)


def points(axes: dict[str, Sequence[int]], *, most_threads: int) -> Iterator[Point]:
    """Every problem of the page, once."""
    names = {"candidates": "S", "horizon": "T"}
    for axis, values in axes.items():
        if axis == "threads":
            values = sorted({min(value, most_threads) for value in values})
            values = values if len(values) > 1 else []  # one point is no axis
        for value in values:
            yield Point(axis, value, **{**FIXED.get(axis, {}), names.get(axis, axis): value})


def results(
    *, repeats: int = 3, threads: int | None = None, quick: bool = False, progress: bool = True
) -> Iterator[list[dict]]:
    """One line per point and dtype, on the instruction set in use. An axis's points take turns; then, all lines so far."""
    isa, most = backend.isa(), backend.check_threads(threads)
    wanted = list(points(QUICK if quick else AXES, most_threads=most))
    peaks = {(dtype, count): 0.0 for dtype in DTYPES for count in sorted({point.threads for point in wanted})}
    lines: list[dict] = []
    with tqdm(total=len(wanted), desc="scaling", unit="point", disable=not progress) as bar:
        for axis in dict.fromkeys(point.axis for point in wanted):
            # A busy moment lowers a peak, nothing raises it.
            peaks = {key: max(best, peak(isa, *key)) for key, best in peaks.items()}
            problems = [Problem(point, isa) for point in wanted if point.axis == axis]
            ways = {
                (problem.point, dtype): way for problem in problems for dtype, way in problem.passed.items()
            }
            times = in_turns(ways, repeats=repeats, warm_up=1)
            lines += [problem.line(dtype, times, repeats) for problem in problems for dtype in DTYPES]
            bar.update(len(problems))
            for line in lines:
                if line["passed"]:
                    line["peak_gflops"] = round(peaks[line["dtype"], line["threads"]] / 1e9, 1)
            yield lines


class Problem:
    """A point with its predictor packed in each dtype, and the ways whose costs agree."""

    def __init__(self, point: Point, isa: str) -> None:
        self.point, self.isa = point, isa
        self.spec = import_model(transformer(depth=point.depth, width=point.width)).spec
        random = torch.Generator().manual_seed(0)
        context = torch.randn(1, 1, self.spec.embed_dim, generator=random)
        actions = torch.randn(1, point.S, point.T, self.spec.action_dim, generator=random)
        self.packed = {dtype: PackedPredictor(self.spec, dtype=dtype, isa=isa) for dtype in DTYPES}
        ways = {d: partial(rollout, self.packed[d], context, threads=point.threads) for d in DTYPES}
        self.agreements = rollout_agreements(self.spec, context, actions, ways)
        self.passed = {d: partial(way, actions) for d, way in ways.items() if self.agreements[d].passed}

    def line(self, dtype: str, times: dict, repeats: int) -> dict:
        point, passed = self.point, dtype in self.passed
        line = {**dataclasses.asdict(point), "units": point.units, "isa": self.isa, "dtype": dtype}
        line |= {**self.agreements[dtype].line(), "repeats": repeats}
        line["gflop"] = count_operations(self.spec, point.S, point.T, 1) / 1e9
        if passed:
            packed = self.packed[dtype]
            streamed = tile_traffic(packed, B=1, S=point.S, T=point.T, K=1, threads=point.threads)
            line |= {"milliseconds": times[point, dtype], "streamed_bytes": streamed}
            line |= {
                "tile": packed.bound.tile(1, point.S, point.T, 1, point.threads),
                "window": self.spec.window,
            }
        return line


def table(lines: Sequence[dict]) -> str:
    """Milliseconds and share of the peak per point, a column per dtype, for a terminal."""
    dtypes = list(dict.fromkeys(line["dtype"] for line in lines))
    text = [
        f"LeWM's predictor, one size changed at a time: milliseconds, fastest of {lines[0]['repeats']}, and share of the peak"
    ]
    for axis in dict.fromkeys(line["axis"] for line in lines):
        own = [line for line in lines if line["axis"] == axis]
        text += [f"\n{axis}: {fixed(own[0])}", " " * 10 + "".join(f"{dtype:>14}" for dtype in dtypes)]
        for value in dict.fromkeys(line["value"] for line in own):
            cells = [_cell(line) for line in own if line["value"] == value]
            text.append(f"{value:>10}" + "".join(f"{cell:>14}" for cell in cells))
    return "\n".join(text)


def _cell(line: dict) -> str:
    if not line["passed"]:
        return "no parity"
    least = line["milliseconds"]["min"]
    return f"{least:.2f} {line['gflop'] / least * 1e3 / line['peak_gflops']:4.0%}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=3, help="of each point (default: 3)")
    parser.add_argument("--threads", type=int, help="the most of the threads axis (default: every processor)")
    parser.add_argument("--quick", action="store_true", help="few small points")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="for JSON, Markdown page and SVG picture"
    )
    arguments = parser.parse_args()
    threads = backend.check_threads(arguments.threads)
    for suffix in ("json", "md", "svg"):
        check_writable(arguments.out / f"scaling.{suffix}")
    machine = header()
    print("\n".join([describe(machine, threads), *doubts(machine)]))
    content: dict = {"machine": machine, "bandwidth": bandwidth(1)}
    for lines in results(
        repeats=arguments.repeats, threads=threads, quick=arguments.quick, progress=sys.stderr.isatty()
    ):
        content["results"] = lines
    content["doubts"] = doubts(machine, lines)
    print(table(lines))
    save(arguments.out / "scaling.json", content)
    write_page(content, arguments.out)


if __name__ == "__main__":
    main()
