"""The demo's result for a terminal."""

from __future__ import annotations

from typing import Any

from fastwm.demo.load import BUSY

POLICIES = ("planner", "expert", "random")
# The engine's dtype, and PyTorch's that it may be compared with.
_COMPARED = {"float32": ("float32",), "bfloat16": ("float32", "bfloat16"), "int8": ("float32", "bfloat16")}


def summary_table(summary: dict[str, Any]) -> str:
    """The summary as a table of at most 72 columns."""
    rule = "─" * 72
    lines = [
        f"  {summary['world']}: goals reached in {summary['episodes']} episodes, given as pixels",
        rule,
        f"  {'':<10}{'reached':>9}   {'95 % interval':<16}{'decisions':>9}",
    ]
    for policy in POLICIES:
        low, high = summary[f"interval_{policy}"]
        decisions = summary[f"decisions_{policy}"]
        lines.append(
            f"  {policy:<10}{percent(summary[f'success_{policy}']):>9}   "
            f"{f'{100 * low:.0f} to {100 * high:.0f} %':<16}{'–' if decisions is None else f'{decisions:.1f}':>9}"
        )
    lines += [rule, *_times(summary), rule]
    stages = "   ".join(f"{name} {duration(seconds)}" for name, seconds in summary["stage_seconds"].items())
    return "\n".join([*lines, f"  {stages}"])


def _times(summary: dict[str, Any]) -> list[str]:
    search = summary["settings"]["search"]
    size = f"{search['samples']} candidates × {search['iterations']} iterations × {search['horizon']} blocks"
    lines = [f"  one plan ({size}, {threads(summary)})"]
    if summary["plan_ms_engine"] is None:
        error = f"{summary['parity_error']:.1e}, allowed {summary['parity_tolerance']:.0e}"
        return [*lines, f"  not timed: the costs of engine and PyTorch differ (relative error {error})"]
    quartiles = summary["plan_ms_quartiles"]
    lines.append(f"  {'':<10}{'engine, ms':<21}{'PyTorch at its fastest, ms':<31}{'ratio':>8}")
    for dtype, engine, beside, torch in pairs(summary):
        ours, theirs = quartiles[f"engine {dtype}"], quartiles[f"torch {beside}"]
        lines.append(
            f"  {dtype:<10}{_time(engine, ours):<21}{_time(torch, theirs):<21}{beside:<10}{torch / engine:8.1f}"
        )
    if busy := busy_machine(summary):
        lines.append(f"  {busy}")
    return [*lines, f"  same costs in float32 to {summary['parity_error']:.0e}"]


def pairs(summary: dict[str, Any]) -> list[tuple[str, float, str, float]]:
    """Times of one plan that belong together, the dtype that the episodes were planned in last: dtype and milliseconds of
    the engine, and of the fastest PyTorch in that dtype or a wider one."""
    found = []
    for dtype, wider in _COMPARED.items():
        if (key := _key("engine", dtype)) in summary:
            torch, beside = min((summary[_key("torch", d)], d) for d in wider if _key("torch", d) in summary)
            found.append((dtype, summary[key], beside, torch))
    return found


def busy_machine(summary: dict[str, Any]) -> str:
    """A warning where other processes ran while plans were timed, else nothing."""
    load, processors = summary["load"]["busy_with_others"], summary["load"]["processors"]
    if load is None or load <= BUSY * processors:
        return ""
    return f"machine busy (load {load:.1f} of others on {processors} processors): times are not to be trusted"


def _key(way: str, dtype: str) -> str:
    return f"plan_ms_{way}" if dtype == "float32" else f"plan_ms_{way}_{dtype}"


def _time(median: float, quartiles: list[float]) -> str:
    first, third = quartiles
    return f"{median:.3g} ({first:.3g} to {third:.3g})"


def threads(summary: dict[str, Any]) -> str:
    """1 thread, 2 threads."""
    count = summary["machine"]["threads"]
    return "1 thread" if count == 1 else f"{count} threads"


def percent(share: float) -> str:
    """94 %, and 0.3 % where rounding would hide it."""
    return f"{100 * share:.3g} %"


def duration(seconds: float | None) -> str:
    """0.4 s, 12 s, 2 min 5 s; ? for None."""
    if seconds is None:
        return "?"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if rest else f"{minutes} min"
