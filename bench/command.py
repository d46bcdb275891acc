"""`fastwm bench`: the kernels and a whole plan on this machine; latency and scaling on request."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from fastwm.engine import backend

from . import kernels, latency, latency_picture, scaling, scaling_page
from .bandwidth import bandwidth
from .machine import describe, doubts, header
from .record import check_writable, save

WRITTEN = {
    "kernels": ("kernels.json",),
    "latency": ("latency.json", "latency.svg"),
    "scaling": ("scaling.json", "scaling.md", "scaling.svg"),
}  # by --out


def run(parsed: argparse.Namespace) -> int:
    """Measure and print what the command line asks for; 1 if something did not agree with PyTorch."""
    mode = "latency" if parsed.latency else "scaling" if parsed.scaling else "kernels"
    threads = check(parsed, mode)
    out = [Path(parsed.out) / name for name in WRITTEN[mode]] if parsed.out is not None else []
    jsons = ([Path(parsed.json)] if parsed.json is not None else []) + out[:1]
    for path in {*jsons, *out}:
        check_writable(path)
    machine = header()
    print(describe(machine, threads))
    for doubt in doubts(machine):
        print(doubt)
    content: dict = {"machine": machine, "partial": True, "results": []}
    if mode == "scaling":
        content["bandwidth"] = bandwidth(1)
    try:
        for lines in measure(parsed, mode, threads):
            content["results"] = lines
            for path in jsons:
                save(path, content)
    finally:  # an interrupted run, too, shows what it has found
        lines = content["results"]
        if lines and mode != "kernels":
            print(latency.table(lines) if mode == "latency" else scaling.table(lines))
    del content["partial"]
    content["doubts"] = doubts(machine, lines)
    for doubt in content["doubts"][len(doubts(machine)) :]:
        print(doubt)
    for path in jsons:
        save(path, content)
    if mode == "latency" and out:
        latency_picture.draw(content, out[1])
    elif mode == "scaling" and out:
        out = [out[0], *scaling_page.write_page(content, parsed.out)]
    if out:
        print(f"wrote {', '.join(map(str, out))}")
    return 0 if all(line["passed"] for line in lines) else 1


def check(parsed: argparse.Namespace, mode: str) -> int:
    """The number of threads; ValueError for what cannot be measured, and for options that would have no effect."""
    if backend.backend() != "cpu":
        raise ValueError(
            "FASTWM_BACKEND is 'torch', but what is measured are the C++ kernels, beside PyTorch: unset it"
        )
    for name in ("repeats", "plans"):
        value = getattr(parsed, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected an integer of at least 1")
    for name in ("plans", "rate"):
        if getattr(parsed, name) is not None and mode != "latency":
            raise ValueError(f"--{name} goes with --latency alone")
    if parsed.repeats is not None and mode == "latency":
        raise ValueError("--latency repeats nothing: --plans says how many")
    latency.check(parsed.plans or 1000, RATE if parsed.rate is None else parsed.rate)
    if parsed.kernels and mode != "kernels":
        raise ValueError("--latency and --scaling measure whole plans and rollouts: leave the kernels out")
    if unknown := sorted(set(parsed.kernels) - set(kernels.KERNELS)):
        raise ValueError(f"unknown kernels {', '.join(unknown)}; known are {', '.join(kernels.KERNELS)}")
    return backend.check_threads(parsed.threads)


RATE = 20.0  # plans per second


def measure(parsed: argparse.Namespace, mode: str, threads: int) -> Iterator[list[dict]]:
    """All lines so far, again and again."""
    progress = not parsed.quiet and sys.stderr.isatty()
    if mode == "latency":
        yield from latency.results(
            plans=parsed.plans or (50 if parsed.quick else 1000),
            rate=parsed.rate or RATE,
            threads=threads,
            models=tuple(latency.MODELS)[: 1 if parsed.quick else None],
            progress=progress,
        )
    elif mode == "scaling":
        yield from scaling.results(
            repeats=parsed.repeats or 3, threads=threads, quick=parsed.quick, progress=progress
        )
    else:
        names = tuple(parsed.kernels) or (kernels.QUICK if parsed.quick else tuple(kernels.KERNELS))
        repeats = parsed.repeats or (3 if parsed.quick else 10)
        lines: list[dict] = []
        print(HEAD)
        with tqdm(total=len(names), unit="kernel", disable=not progress, leave=False) as bar:
            for found in kernels.results(names, isa=backend.isa(), threads=threads, repeats=repeats):
                tqdm.write("\n".join(rows(found)))
                lines = lines + found
                bar.update()
                yield lines
        print(LEGEND)


HEAD = (
    f"\n{'':<54}{'fastwm, ms':>18}{'PyTorch, ms':>18}\n"
    f"{'kernel':<11}{'size':<23}{'dtype':<10}{'agrees':>10}{'fastest':>9}{'median':>9}{'fastest':>9}{'median':>9}"
    f"  {'dtype':<9}{'ratio':>8}{'of peak':>9}"
)
LEGEND = """
size: candidates × blocks × numbers of an action; numbers of a latent; elites of candidates; rollouts: model, candidates ×
blocks; plans: model, iterations × candidates × blocks, from picture to picture. agrees: the largest relative error of a cost
against PyTorch in float32, or "to bits". PyTorch: the same in plain PyTorch, the faster of that dtype and float32. ratio:
of the two fastest times. of peak: counted operations, in the fastest time, against measured fused multiply-adds."""


def rows(lines: Sequence[dict]) -> list[str]:
    """One row per dtype of fastwm's lines of one kernel, beside the fastest PyTorch in that dtype or float32."""
    text = []
    plain = {line["dtype"]: line["milliseconds"] for line in lines if line["engine"] == "PyTorch"}
    for line in (line for line in lines if line["engine"] == "fastwm"):
        error = line["relative_cost_error"]
        agrees = "no" if not line["passed"] else "to bits" if error is None else f"{error:.0e}"
        row = f"{line['kernel']:<11}{line['size']:<23}{line['dtype']:<10}{agrees.replace('e-0', 'e-'):>10}"
        if not line["passed"]:
            shown = "" if error is None else f" (relative cost error {error:.1e})"
            text.append(f"{row}  does not agree with PyTorch{shown}: no time is given")
            continue
        times = line["milliseconds"]
        dtypes = [dtype for dtype in plain if dtype == "float32" or line["dtype"] != "float32"]
        rival = min(dtypes, key=lambda dtype: plain[dtype]["min"])
        for ms in (times, plain[rival]):
            row += f"{ms['min']:9.4g}{ms['median']:9.4g}"
        row += f"  {rival:<9}{plain[rival]['min'] / times['min']:6.1f} ×"
        text.append(row + (f"{line['efficiency']:9.0%}" if "efficiency" in line else ""))
    return text
