"""Run benchmarks, print what they found, write it to bench/results/<stem>.json.

python -m bench.run [rollout …] [--repeats 20] [--threads 1 2] [--no-compile] [--quick]
"""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path

from fastwm.engine.backend import default_threads

from .machine import header

HERE = Path(__file__).parent
STEMS = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stems", nargs="*", choices=[[], *STEMS], help="kernels, by default all")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, default_threads()}))
    parser.add_argument(
        "--no-compile", dest="compiled", action="store_false", help="leave torch.compile out (minutes)"
    )
    parser.add_argument("--quick", action="store_true", help="3 repeats, no torch.compile, nothing written")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeats, arguments.compiled = 3, False
    machine = header()
    print(json.dumps(machine, indent=2))
    for stem in arguments.stems or STEMS:
        module = importlib.import_module(f".bench_{stem}", __package__)
        print(f"\n{stem}: {module.__doc__.strip()}")
        lines = []
        for line in module.results(
            repeats=arguments.repeats, threads=tuple(arguments.threads), compiled=arguments.compiled
        ):
            lines.append(line)
            print(describe(line), flush=True)
        if not arguments.quick:
            write(HERE / "results" / f"{stem}.json", {"machine": machine, "results": lines})


def describe(line: dict) -> str:
    place = ", ".join(f"{name} {line[name]}" for name in ("context", "threads") if name in line)
    if not line["passed"]:
        return f"{place}  {line['way']:36} parity failed: no time is given"
    times = line["milliseconds"]
    text = f"{place}  {line['way']:36} {times['median']:9.3f} ms  ({times['q1']:.3f} to {times['q3']:.3f})"
    if "efficiency" in line:
        text += f"  {line['gflops']:7.1f} GFLOP/s, {line['efficiency']:6.1%} of the peak"
    if line.get("relative_cost_error") is not None:
        text += f"  cost error {line['relative_cost_error']:.1e}"
    return text


def write(path: Path, content: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    unfinished.replace(path)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
