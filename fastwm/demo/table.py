"""The demo's result for a terminal."""

from __future__ import annotations

from typing import Any

POLICIES = ("planner", "expert", "random")


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
    for dtype, suffix, beside in (
        ("float32", "", ""),
        ("bfloat16", "_bfloat16", "_bfloat16"),
        ("int8", "_int8", "_bfloat16"),
    ):
        if f"plan_ms_engine{suffix}" in summary:
            engine, torch = summary[f"plan_ms_engine{suffix}"], summary[f"plan_ms_torch{beside}"]
            lines.append(
                f"  {dtype:<10}engine {engine:7.2f} ms   PyTorch {torch:7.2f} ms   {torch / engine:.1f} times as long"
            )
    if "plan_ms_engine_int8" in summary:
        lines.append("  beside int8, PyTorch in bfloat16")
    return [*lines, f"  same costs in float32 to {summary['parity_error']:.0e}"]


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
