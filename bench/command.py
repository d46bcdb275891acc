"""`fastwm bench`: the kernels and a whole plan on this machine; latency and scaling on request."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from fastwm.engine import backend

from . import kernels, latency, latency_picture, scaling, scaling_page
from .bandwidth import bandwidth
from .machine import header
from .record import save


def run(parsed: argparse.Namespace) -> int:
    """Measure and print what the command line asks for; 1 if something did not agree with PyTorch."""
    threads = backend.check_threads(parsed.threads)
    for name in ("repeats", "plans"):
        value = getattr(parsed, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}, expected an integer of at least 1")
    latency.check(parsed.plans or 1000, parsed.rate)
    if parsed.kernels and (parsed.latency or parsed.scaling):
        raise ValueError("--latency and --scaling measure whole plans and rollouts: leave the kernels out")
    if unknown := sorted(set(parsed.kernels) - set(kernels.KERNELS)):
        raise ValueError(f"unknown kernels {', '.join(unknown)}; known are {', '.join(kernels.KERNELS)}")
    machine = header()
    print(
        f"{machine['processor']}, {machine['isa']}, {threads} thread{'s' if threads > 1 else ''}, fastwm {machine['fastwm']}, "
        f"torch {machine['torch']}, load {machine['load']}"
    )
    progress = not parsed.quiet
    if parsed.latency:
        plans = parsed.plans or (50 if parsed.quick else 1000)
        models = tuple(latency.MODELS)[: 1 if parsed.quick else None]
        lines = latency.results(
            plans=plans, rate=parsed.rate, threads=threads, models=models, progress=progress
        )
        print(latency.table(lines))
    elif parsed.scaling:
        lines = scaling.results(
            repeats=parsed.repeats or 3, threads=threads, quick=parsed.quick, progress=progress
        )
        print(scaling.table(lines))
    else:
        lines = _kernels(parsed, threads)
    content: dict = {"machine": machine, "results": lines}
    if parsed.scaling:
        content["bandwidth"] = bandwidth(1)
    if parsed.json:
        save(parsed.json, content)
    if parsed.out:
        _pictures(parsed, content, Path(parsed.out))
    return 0 if all(line["passed"] for line in lines) else 1


def _kernels(parsed: argparse.Namespace, threads: int) -> list[dict]:
    names = tuple(parsed.kernels) or (kernels.QUICK if parsed.quick else tuple(kernels.KERNELS))
    repeats = parsed.repeats or (3 if parsed.quick else 10)
    lines: list[dict] = []
    print(HEAD)
    with tqdm(total=len(names), unit=" kernels", disable=parsed.quiet, leave=False) as bar:
        for found in kernels.results(names, isa=backend.isa(), threads=threads, repeats=repeats):
            tqdm.write("\n".join(rows(found)))
            lines += found
            bar.update()
    return lines


def _pictures(parsed: argparse.Namespace, content: dict, directory: Path) -> None:
    stem = "latency" if parsed.latency else "scaling" if parsed.scaling else "kernels"
    save(directory / f"{stem}.json", content)
    if parsed.latency:
        latency_picture.draw(content, directory / "latency.svg")
    elif parsed.scaling:
        scaling_page.write_page(content, directory)
    print(f"wrote {directory}/{stem}.*")


HEAD = (
    f"\n{'kernel':<11}{'size':<24}{'dtype':<10}{'agrees':>8}{'fastwm, ms':>12}{'quartiles':>18}"
    f"{'PyTorch takes':>21}{'of peak':>9}"
)


def rows(lines: Sequence[dict]) -> list[str]:
    """One row per dtype of fastwm's lines of one kernel, beside the fastest PyTorch in that dtype or float32."""
    text = []
    plain = {line["dtype"]: line["milliseconds"]["median"] for line in lines if line["engine"] == "PyTorch"}
    for line in (line for line in lines if line["engine"] == "fastwm"):
        error = line["relative_cost_error"]
        agrees = ("no" if not line["passed"] else "to bits" if error is None else f"{error:.0e}").replace(
            "e-0", "e-"
        )
        row = f"{line['kernel']:<11}{line['size']:<24}{line['dtype']:<10}{agrees:>8}"
        if not line["passed"]:
            shown = "" if error is None else f" (relative cost error {error:.1e})"
            text.append(f"{row}  does not agree with PyTorch{shown}: no time is given")
            continue
        times = line["milliseconds"]
        rivals = [ms for dtype, ms in plain.items() if dtype == "float32" or line["dtype"] != "float32"]
        row += f"{times['median']:12.4g}{times['q1']:10.4g}{times['q3']:8.4g}"
        row += f"{min(rivals):12.4g}{min(rivals) / times['median']:7.1f} ×"
        text.append(row + (f"{line['efficiency']:9.0%}" if "efficiency" in line else ""))
    return text
