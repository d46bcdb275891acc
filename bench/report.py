"""README's results from bench/results/*.json: python -m bench.report rewrites them, --check fails where they differ.

A block stands between <!-- bench:NAME --> and <!-- /bench:NAME -->; the names are those of BLOCKS. What was not measured does
not appear, and a block of which nothing was measured stays as it is.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from fastwm.models.storage import write_atomically

from . import report_latency, report_rollout
from .record import RESULTS, read

README = Path(__file__).parents[1] / "README.md"

ROOFLINE = """![Roofline of the rollout: what each way reaches, under the peaks of each dtype](bench/results/roofline.svg)

<sub>Roofs: measured peaks of one core and measured read bandwidths. Across: counted operations per byte that must come from
beyond L2; for fastwm the packed weights that pass a tile of candidates at every step, for the others the weights, inputs and
outputs of operators run one by one ([the counts](bench/traffic.py)).</sub>"""
SCALING = """Where cost stops being linear in candidates, horizon, depth, width and threads, and why:
[how the cost of a rollout scales](bench/results/scaling.md)."""

# name: the results it shows, and the function that makes its Markdown of their content; "" where nothing was measured.
BLOCKS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "headline": ("rollout", report_rollout.headline),
    "rollout": ("rollout", report_rollout.ratios),
    "ways": ("rollout", report_rollout.ways),
    "sizes": ("rollout", report_rollout.sizes),
    "small": ("rollout", report_rollout.small_models),
    "roofline": ("roofline", lambda content: ROOFLINE),
    "latency": ("latency", report_latency.table),
    "scaling": ("scaling", lambda content: SCALING),
}
_BLOCK = re.compile(r"(<!-- bench:(\w+) -->\n)(.*?)(<!-- /bench:\2 -->)", re.DOTALL)


def generate(text: str, results: Path) -> tuple[str, list[str], list[str]]:
    """The text with its blocks made of `results`; names of blocks that changed, and of those of which nothing was measured.

    Raises ValueError for a block that is unknown, not closed or there twice.
    """
    names = re.findall(r"<!-- bench:(\w+) -->", text)
    closed = [match[2] for match in _BLOCK.finditer(text)]
    if names != closed or len(set(names)) < len(names):
        raise ValueError(
            f"blocks {names} are opened and {closed} closed; expected each once, with both of its markers"
        )
    if unknown := sorted(set(names) - set(BLOCKS)):
        raise ValueError(f"unknown blocks {unknown}; known are {sorted(BLOCKS)}")
    changed, empty = [], []

    def replace(match: re.Match[str]) -> str:
        stem, make = BLOCKS[match[2]]
        path = results / f"{stem}.json"
        made = make(read(path)).strip() if path.is_file() else ""
        if not made:
            empty.append(match[2])
            return match[0]
        if made + "\n" != match[3]:
            changed.append(match[2])
        return f"{match[1]}{made}\n{match[4]}"

    return _BLOCK.sub(replace, text), changed, empty


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="change nothing; exit with 1 where README differs",
    )
    parser.add_argument("--readme", type=Path, default=README, metavar="FILE")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="DIR")
    parsed = parser.parse_args(arguments)
    text, changed, empty = generate(parsed.readme.read_text(encoding="utf-8"), parsed.results)
    for name in empty:
        print(f"{name}: not measured, left as it is")
    if parsed.check:
        for name in changed:
            print(
                f"{parsed.readme}: block {name} differs from the results; run python -m bench.report",
                file=sys.stderr,
            )
        return 1 if changed else 0
    if changed:
        write_atomically(parsed.readme, text.encode())
    print(f"{parsed.readme}: {', '.join(changed) if changed else 'nothing'} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
