"""Every proof of the GPU's kernels, rung by rung, each in a process of its own. All but the last need no GPU and see none.

    python tests/gpu/ladder.py                                   all rungs; exit 1 if one fails
    python tests/gpu/ladder.py --rung interpreter --rung aot     some
    python tests/gpu/ladder.py --write bench/results/ladder.json results and tables, with a page beside them (.md)
    python tests/gpu/ladder.py --rung ttsem -- -k attention      what follows goes to pytest
    python tests/gpu/ladder.py --rung device                     the tests of values on this machine's GPU

A rung without tests fails: nothing would be proven. Where there is no GPU, `device` is left out, unless it is asked for.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

from fastwm.engine.backend import why_not_gpu  # noqa: E402

OTHERS = ("aot", "cubin", "mutants")  # tests/gpu/test_<name>.py, rungs of their own
TOOLS = (
    "bench_gpu",
    "contraction",
    "emulation",
    "guard",
    "ladder",
)  # of what a GPU computes they say nothing


class Rung(NamedTuple):
    """What it proves, what pytest is to run, and how."""

    name: str
    proves: str
    arguments: tuple[str, ...]
    interpret: bool = False
    ttsem: bool = False
    device: bool = False


def _all(select: str, but: tuple[str, ...] = OTHERS) -> tuple[str, ...]:
    ignored = [f"--ignore=tests/gpu/test_{name}.py" for name in but]
    return ("tests/gpu", *ignored, "-m", select)


RUNGS = (
    Rung(
        "interpreter",
        "Triton: values, every lane's bounds, races between programs, three orders of programs",
        _all("triton"),
        interpret=True,
    ),
    Rung(
        "ttsem",
        "Triton: the same tests on its compiler's IR, where bfloat16 and TF32 round as on a GPU",
        _all("triton"),
        ttsem=True,
    ),
    Rung(
        "aot",
        "Triton compiles for sm_80, 90, 100, 120, within budgets: registers, spills, shared memory, loads, tensor cores; "
        "and for gfx942, whose machine code is not read",
        ("tests/gpu/test_aot.py",),
    ),
    Rung(
        "build",
        "fastwm._cuda is built for all targets and imports without a driver",
        ("tests/test_cuda_build.py",),
    ),
    Rung(
        "cubin",
        "machine code of fastwm._cuda: nothing spilled, blocks that fit, no bank conflicts",
        ("tests/gpu/test_cubin.py",),
    ),
    Rung(
        "emulation",
        "CUDA sources on the CPU: values in three schedules, barriers, warp collectives; the plan end to end",
        _all("not triton and not address and not thread"),
        interpret=True,
    ),
    Rung("address", "CUDA sources on the CPU under ASan and UBSan", _all("address"), interpret=True),
    Rung(
        "thread",
        "CUDA sources on the CPU under TSan: races in shared and global memory",
        _all("thread"),
        interpret=True,
    ),
    Rung("mutants", "planted faults, each seen by one of the rungs above", ("tests/gpu/test_mutants.py",)),
    Rung(
        "device",
        "values of all kernels and whole plans on a GPU",
        _all("not address and not thread", (*OTHERS, *TOOLS)),
        device=True,
    ),
)


class Outcome(NamedTuple):
    """A rung's tests by how they ended, its rows of tables by kind, and seconds of wall time.

    left_out: why the rung was not climbed.
    """

    rung: Rung
    counts: dict[str, int]
    tables: dict[str, list[dict[str, Any]]]
    failures: list[str]
    seconds: float
    left_out: str = ""

    @property
    def passed(self) -> bool:
        return not self.failures and (self.counts["passed"] > 0 or bool(self.left_out))


def climb(rung: Rung, more: list[str], *, asked: bool = False) -> Outcome:
    """Run one rung. asked: whether it is a failure that it cannot run here."""
    if rung.device and (reason := why_not_gpu()):
        print(f"== {rung.name}: left out, {reason}", flush=True)
        failures = [f"{rung.name}: {reason}"] if asked else []
        return Outcome(rung, dict.fromkeys(("passed", "failed", "skipped"), 0), {}, failures, 0.0, reason)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if not rung.device:
        environment["CUDA_VISIBLE_DEVICES"] = ""  # proven with a GPU is what is proven without
    environment["TRITON_DEFAULT_FP_FUSION"] = "1"
    if rung.interpret:
        environment["TRITON_INTERPRET"] = "1"
    runner = ["ttsem.sanitize", "pytest"] if rung.ttsem else ["pytest"]
    print(f"== {rung.name}: {rung.proves}", flush=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            *runner,
            "-q",
            f"--junitxml={report}",
            "-o",
            "junit_family=xunit1",
            *rung.arguments,
            *more,
        ]
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        counts, tables, failures = _read(report) if report.exists() else ({"passed": 0}, {}, [])
    if code and not failures:
        failures = [f"{rung.name}: pytest ended with {code}" + (", no tests" if code == 5 else "")]
    return Outcome(rung, counts, tables, failures, time.perf_counter() - started)


def _read(report: Path) -> tuple[dict[str, int], dict[str, list[dict[str, Any]]], list[str]]:
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    tables: dict[str, list[dict[str, Any]]] = {}
    failures = []
    for case in ET.parse(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            failures.append(
                f"{name} - {(bad.get('message') or '').splitlines()[0][:100] if bad.get('message') else ''}"
            )
        counts[
            "failed" if bad is not None else "skipped" if case.find("skipped") is not None else "passed"
        ] += 1
        for row in case.iter("property"):
            tables.setdefault(row.get("name", ""), []).append(json.loads(row.get("value", "null")))
    return counts, tables, failures


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines of a table in Markdown; columns are the keys of all rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        cells = (
            "" if row.get(column) is None else str(row[column]).replace("|", "\\|") for column in columns
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def summary(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """A row for each rung."""
    return [
        {
            "rung": outcome.rung.name,
            "proves": outcome.rung.proves,
            **outcome.counts,
            "seconds": round(outcome.seconds, 1),
            "": "FAILED" if not outcome.passed else "no GPU" if outcome.left_out else "ok",
        }
        for outcome in outcomes
    ]


def page(content: dict[str, Any]) -> str:
    """The results as a page."""
    machine, tables = content["machine"], content["tables"]
    lines = ["# The ladder: the GPU's kernels, proven without a GPU", ""]
    lines += [
        f"Made by `python tests/gpu/ladder.py --write`: {machine['processor']}, {machine['cores']} cores, load "
        f"{machine['load']}, commit {machine['commit']}, torch {machine['torch']}, triton {content['triton']}. "
        "Seconds are wall time, with what was compiled before kept.",
        "",
    ]
    lines += table(content["results"])
    if mutants := tables.get("mutant"):
        marks = [{"stem": row["stem"], "fault": row["fault"], **_marks(row["rungs"])} for row in mutants]
        meaning = "seen: this rung fails with the fault; -: it passes; empty: it was not asked to see it."
        lines += [
            "",
            "## Planted faults and the rungs that see them",
            "",
            f"{len(mutants)} faults, all seen.",
        ]
        lines += ["", meaning, *_folded("Every fault", marks)]
    if kernels := tables.get("kernel"):
        lines += ["", "## CUDA: what each kernel uses", ""]
        lines += ["`threads`: the most of a block; occupancy with as many."]
        lines += _folded("Every kernel", kernels)
    if compiled := tables.get("compiled"):
        lines += ["", "## Triton, compiled ahead of time: what each variant uses"]
        lines += _folded("Every variant", compiled)
    return "\n".join(lines) + "\n"


def _folded(title: str, rows: list[dict[str, Any]]) -> list[str]:
    """A long table that a reader has to open."""
    return ["", f"<details><summary>{title}</summary>", "", *table(rows), "", "</details>"]


def _marks(rungs: dict[str, str | None]) -> dict[str, str]:
    from mutants import RUNGS as ALL

    return {rung: "" if rung not in rungs else "seen" if rungs[rung] is not None else "-" for rung in ALL}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--rung",
        action="append",
        choices=[rung.name for rung in RUNGS],
        help="only this one; may be repeated",
    )
    parser.add_argument("--write", type=Path, metavar="PATH.json", help="where results and tables go")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    options = parser.parse_args()
    outcomes = [
        climb(rung, options.pytest, asked=bool(options.rung))
        for rung in RUNGS
        if not options.rung or rung.name in options.rung
    ]
    rows = summary(outcomes)
    if options.write is not None:
        from importlib.metadata import version

        from bench.machine import header
        from bench.record import save, write

        tables = {name: rows_ for outcome in outcomes for name, rows_ in outcome.tables.items()}
        content = {"machine": header(), "triton": version("triton"), "results": rows, "tables": tables}
        save(options.write, content)
        write(options.write.with_suffix(".md"), page(content))
    print("\n" + "\n".join(table(rows)) + "\n")
    failures = [line for outcome in outcomes for line in outcome.failures]
    if failures:
        print("=========================== short test summary info ============================")
        print("\n".join(f"FAILED {line}" for line in failures))
    total = {
        how: sum(outcome.counts.get(how, 0) for outcome in outcomes)
        for how in ("failed", "passed", "skipped")
    }
    total["failed"] = max(total["failed"], len(failures))
    seconds = sum(outcome.seconds for outcome in outcomes)
    print(f"{', '.join(f'{n} {how}' for how, n in total.items() if n)} in {seconds:.2f}s")
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
