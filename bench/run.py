"""Run benchmarks, print what they found, write it to bench/results/<stem>.json.

python -m bench.run [rollout …] [--sweep | --quick] [--threads 1 2] [--models lewm …] [--ways openvino …]
python -m bench.run --backend cuda [rollout …] [--repeats 20] [--no-compile] [--rehearse]      on a GPU (bench/gpu/run.py)

On a GPU every way is compared with the reference before it gets a time; `python -m bench.gpu.page` then writes bench/gpu.md.
Lines are written as they come: a run that is ended loses nothing. They take the place of the same lines of an earlier run of
the same code on the same machine, so a table may be measured in parts; others are dropped. The same code is the last commit
that touched csrc, fastwm or how they are built: results and documents may be committed between the parts.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

from bench.machine import describe as place
from bench.machine import doubts, header
from bench.options import Options
from bench.record import RESULTS, read, save
from fastwm.engine.backend import backend as resolve
from fastwm.engine.backend import cpu_module, default_threads

STEMS = sorted(path.stem.removeprefix("bench_") for path in Path(__file__).parent.glob("bench_*.py"))
GPU_STEMS = "adaln", "attention", "cem_sample", "cem_update", "gated_residual", "goal_cost", "plan", "rollout"
IDENTITY = "model", "B", "S", "T", "K", "threads", "way"  # of a line
PLACE = "fastwm", "torch", "isa", "processor", "cores", "commit", "peers"  # of a run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    stems = f"of {', '.join(STEMS)}; with --backend cuda of {', '.join(GPU_STEMS)} (default: all)"
    parser.add_argument("stems", nargs="*", metavar="STEM", help=stems)
    parser.add_argument(
        "--backend", choices=("cpu", "cuda"), default="cpu", help="what is measured (default: cpu)"
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="with --backend cuda: everything once, emulated, nothing written",
    )
    parser.add_argument("--repeats", type=int, default=20, help="rounds of all ways, at most (default: 20)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=120,
        help="on the CPU: about as long per problem, at least 5 rounds (default: 120)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+",
        default=sorted({1, default_threads()}),
        help="on the CPU: each of them in turn (default: 1 and all processors)",
    )
    parser.add_argument("--models", nargs="+", default=[], help="of rollout: these alone")
    parser.add_argument(
        "--ways", nargs="+", default=[], help="of rollout: those whose name holds one of these"
    )
    parser.add_argument(
        "--no-compile", dest="compiled", action="store_false", help="leave torch.compile out (minutes)"
    )
    parser.add_argument("--sweep", action="store_true", help="of rollout: LeWM at other sizes, fastwm alone")
    parser.add_argument(
        "--quick", action="store_true", help="3 repeats, peers that are ready in seconds, nothing written"
    )
    arguments = vars(parser.parse_args())
    backend, rehearse = arguments.pop("backend"), arguments.pop("rehearse")
    if backend == "cuda":
        on_a_gpu(parser, arguments, rehearse)
        return
    if rehearse:
        parser.error("--rehearse is for --backend cuda")
    stems = arguments.pop("stems") or STEMS
    if unknown := sorted(set(stems) - set(STEMS)):
        parser.error(f"unknown {', '.join(unknown)}; known are {', '.join(STEMS)}")
    if arguments["quick"]:
        arguments |= {"repeats": 3, "compiled": False}
    try:
        cpu_module()
    except ImportError as error:
        parser.exit(2, f"{error}\n")
    options = Options(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
    )
    machine = header()
    print("\n".join([place(machine, max(options.threads)), *doubts(machine)]))
    if peers := machine["peers"]:
        print("beside " + ", ".join(f"{name} {version}" for name, version in peers.items()))
    for stem in stems:
        module = importlib.import_module(f"bench.bench_{stem}")
        print(f"\n{stem}: {module.__doc__.strip()}")
        lines: list[dict] = []
        for line in module.results(options):
            lines.append(line)
            print(describe(line), flush=True)
            if not options.quick:
                path = RESULTS / f"{stem}.json"
                found = merged(path, machine, lines)
                save(path, {"machine": machine, "doubts": doubts(machine, found), "results": found})
        for doubt in doubts({**machine, "load": 0}, lines):
            print(doubt)


def on_a_gpu(parser: argparse.ArgumentParser, arguments: dict, rehearse: bool) -> None:
    """Every kernel and the whole plan, beside PyTorch; ends with one line where there is no GPU."""
    for name in ("models", "ways", "sweep", "quick"):
        if arguments[name]:
            parser.error(f"--{name} is for the CPU")
    if unknown := sorted(set(arguments["stems"]) - set(GPU_STEMS)):
        parser.error(f"unknown {', '.join(unknown)}; known are {', '.join(GPU_STEMS)}")
    try:
        if not rehearse:
            resolve("cuda")
        from bench.gpu.run import main as measure
    except (ImportError, RuntimeError) as error:
        parser.exit(2, f"{error}; --rehearse runs everything without a GPU\n")
    repeats = 1 if rehearse else arguments["repeats"]
    measure(arguments["stems"], repeats=repeats, rehearse=rehearse, compiled=arguments["compiled"])


def merged(path: Path, machine: dict, lines: list[dict]) -> list[dict]:
    """The lines already in the file that this run has not measured again, then its own."""
    if not path.is_file():
        return lines
    before = read(path)
    if any(before["machine"].get(name) != machine[name] for name in PLACE):
        return lines
    measured = {identity(line) for line in lines}
    return [line for line in before["results"] if identity(line) not in measured] + lines


def identity(line: dict) -> tuple:
    return tuple(line.get(name) for name in IDENTITY)


def describe(line: dict) -> str:
    place = ", ".join(f"{name} {line[name]}" for name in IDENTITY[:-1] if name in line)
    if not line["passed"]:
        return f"{place}  {line['way']:28} parity failed, no time is given{accuracy(line)}"
    times = line["milliseconds"]
    text = f"{place}  {line['way']:28} {times['median']:9.3f} ms  ({times['q1']:.3f} to {times['q3']:.3f})"
    if "efficiency" in line:
        text += f"  {line['gflops']:7.1f} GFLOP/s, {line['efficiency']:6.1%} of the peak"
    return text + accuracy(line)


def accuracy(line: dict) -> str:
    if line.get("relative_cost_error") is None:
        return ""
    elites = f", elites {line['elite_overlap']:.1%}" if "elite_overlap" in line else ""
    return f"  cost error {line['relative_cost_error']:.1e}{elites}"


if __name__ == "__main__":
    main()
