"""Measures every kernel and the whole plan on this machine's GPU, beside PyTorch, and writes bench/results/gpu/<stem>.json.

Every way is first compared with the reference; one that does not compute what it should is given no time. A rehearsal writes
nothing. `python -m bench.gpu.page` makes a page of the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from bench.agreement import Agreement
from bench.gpu import peaks, place
from bench.gpu.attention import attention
from bench.gpu.kernels import Case, cem_sample, cem_update, goal_cost, plan, rollout
from bench.gpu.place import Place, Size
from bench.gpu.timing import in_turns
from bench.gpu.training import adaln, gated_residual
from bench.machine import header
from bench.record import RESULTS, save

FOLDER = RESULTS / "gpu"
# In the order of the data path; then training's.
CASES: dict[str, Callable[[Place, Size], Iterator[Case]]] = {
    "cem_sample": cem_sample,
    "rollout": rollout,
    "attention": attention,
    "goal_cost": goal_cost,
    "cem_update": cem_update,
    "plan": plan,
    "adaln": adaln,
    "gated_residual": gated_residual,
}


def main(
    stems: Sequence[str], *, repeats: int, rehearse: bool, compiled: bool = True, folder: Path = FOLDER
) -> list[dict]:
    """The lines of each stem, printed as they come. compiled: with torch.compile, which takes minutes.

    Raises RuntimeError where no GPU is, ValueError for an unknown stem.
    """
    if unknown := sorted(set(stems) - set(CASES)):
        raise ValueError(f"unknown {', '.join(unknown)}; known are {', '.join(CASES)}")
    found = []
    with place.at(rehearse=rehearse, compiled=compiled) as here:
        machine = {**header(), **place.describe(here)}
        machine["peaks"] = peaks.measure(here, repeats=1 if rehearse else 10)
        print(_machine_line(machine, rehearse))
        for stem in stems or CASES:
            print(f"\n{stem}: {CASES[stem].__doc__}")
            lines = []
            for line in _lines(stem, here, machine["peaks"], repeats):
                print(describe(line, here.rehearsal), flush=True)
                lines.append(line)
                if not rehearse:
                    save(folder / f"{stem}.json", {"machine": machine, "results": lines})
            found += lines
        print(f"\n{_last_line(found, folder, rehearse)}")
    return found


def _last_line(lines: list[dict], folder: Path, rehearsal: bool) -> str:
    stems = len({line["kernel"].split()[0] for line in lines})
    agree = sum(line["passed"] for line in lines)
    refused = f", {len(lines) - agree} refused" if agree < len(lines) else ""
    if rehearsal:
        return f"{stems} stems, {agree} ways rehearsed{refused}, nothing written"
    return (
        f"{stems} stems, {agree} ways measured{refused}, written to {folder}; now: python -m bench.gpu.page"
    )


def _lines(stem: str, here: Place, peaks: dict[str, float], repeats: int) -> Iterator[dict]:
    for size in here.sizes:
        for case in CASES[stem](here, size):
            yield from measure(case, here, peaks, repeats)
            torch._dynamo.reset()


def measure(case: Case, here: Place, peaks: dict[str, float], repeats: int) -> Iterator[dict]:
    """One line per way: its verdict, and its time if that is good."""
    verdicts, failures = {}, {}
    for key in case.ways:
        try:
            verdicts[key] = case.agree(key)
        except RuntimeError as error:  # a compiler's, or memory's end; ours is a fault to be seen
            if key[0] == "fastwm":
                raise
            verdicts[key] = Agreement(False)
            failures[key] = {"failure": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"}
    passed = {" ".join(key): way for key, way in case.ways.items() if verdicts[key].passed}
    times = in_turns(passed, here, repeats=repeats, warm_up=0 if here.rehearsal else 5, watch=case.watch)
    for key, verdict in verdicts.items():
        line = {"kernel": case.kernel, "B": case.size.B, "S": case.size.S, "T": case.size.T, "K": 1}
        line |= (
            {"model": case.size.model, "iterations": case.size.iterations} if case.kernel == "plan" else {}
        )
        line |= {
            "way": " ".join(key),
            "engine": key[0],
            "dtype": key[1],
            **verdict.line(),
            **failures.get(key, {}),
        }
        if verdict.passed:
            line |= {"milliseconds": times[line["way"]], "repeats": repeats, "watch": case.watch}
            if key[0] == "fastwm" and key[1] in case.work:
                line |= efficiency(case, key[1], times[line["way"]]["median"], peaks)
        yield line


def efficiency(case: Case, dtype: str, milliseconds: float, peaks: dict[str, float]) -> dict:
    """What was moved and computed, and the least time for it at the card's own peaks as a share of the time it took."""
    work = case.work[dtype]
    product = peaks["bfloat16"] if dtype == "bfloat16" else max(peaks["float32"], peaks["tf32"] / 3)  # tf32x3
    floor = 1e3 * max(work.bytes / peaks["dram"], work.operations / product)
    return {
        "bytes": work.bytes,
        "operations": work.operations,
        "launches": work.launches,
        "floor_milliseconds": float(f"{floor:.4g}"),
        "efficiency": float(f"{floor / milliseconds:.4g}"),
    }


def describe(line: dict, rehearsal: bool) -> str:
    """For people, who are told no time that means nothing."""
    what = f"{line['kernel']:18} B {line['B']:<3} {line['way']:38}"
    if not line["passed"]:
        if "failure" in line:
            return f"{what} failed, {line['failure']}"
        error = line["relative_cost_error"]
        return f"{what} disagrees{'' if error is None else f' by {error:.1e}'}, no time is given"
    if rehearsal:
        return f"{what} rehearsed"
    times = line["milliseconds"]
    text = f"{what} {times['median']:9.4f} ms  ({times['q1']:.4f} to {times['q3']:.4f})"
    return text + (f"  {line['efficiency']:6.1%} of the floor" if "efficiency" in line else "")


def _machine_line(machine: dict, rehearsal: bool) -> str:
    versions = f"fastwm {machine['fastwm']} ({machine['commit']}), torch {machine['torch']}, triton {machine['triton']}"
    if rehearsal:
        return f"a rehearsal, no time is taken: {versions}"
    rates = machine["peaks"]
    memory = ", ".join(f"{name} {rates[name] / 1e9:.0f} GB/s" for name in ("dram", "l2"))
    products = ", ".join(f"{name} {rates[name] / 1e12:.1f}" for name in ("bfloat16", "tf32", "float32"))
    return f"{machine['gpu']}: {memory}; {products} TFLOP/s; {versions}"
