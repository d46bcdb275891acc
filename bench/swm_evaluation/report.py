"""Lines of an evaluation -> results and their table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fastwm.evaluation import wilson_interval

from .ways import DROP_IN, OFTEN, OURS, RANDOM, RECOMMENDED, THEIRS, WAYS

PARITY = 1e-4  # in the model's units of action; above, no speed is shown
BUSY = 0.2  # cores that other processes may take
NAMES = {
    THEIRS: "stable-worldmodel's `CEMSolver`",
    DROP_IN: "fastwm's `CEMSolver`, one line changed",
    OFTEN: "the same, a new plan every block",
    RECOMMENDED: "`fastwm.Planner.recommended`",
    RANDOM: "random actions",
}


def results(lines: Sequence[dict]) -> list[dict]:
    """One entry for each kind of tasks, number of environments and way; only of groups that every way has done.

    difference: greatest, between a number of the first plan of a group and of stable-worldmodel's. outcomes: episodes that
    end as stable-worldmodel's do. others: cores that other processes took meanwhile. faster: stable-worldmodel's seconds in the
    solver, and on the wall, by this way's; None where the drop-in's first plans differ by more than PARITY.
    """
    found = []
    for tasks, n in sorted({(line["tasks"], line["environments"]) for line in lines}):
        of_way = {
            way: {
                line["group"]: line
                for line in lines
                if (line["tasks"], line["environments"], line["way"]) == (tasks, n, way)
            }
            for way in WAYS
        }
        of_way = {way: those for way, those in of_way.items() if those}
        common = sorted(set.intersection(*(set(those) for those in of_way.values())))
        if THEIRS in of_way and common:
            chosen = {way: [those[group] for group in common] for way, those in of_way.items()}
            found += [
                {"tasks": tasks, "environments": n, **entry}
                for entry in _entries(chosen, parity=difference(chosen))
            ]
    return found


def difference(chosen: dict[str, list[dict]]) -> float | None:
    """The drop-in's greatest difference from stable-worldmodel's first plans; None where it was not run."""
    if DROP_IN not in chosen:
        return None
    pairs = zip(chosen[DROP_IN], chosen[THEIRS], strict=True)
    return max(float(np.abs(np.subtract(ours["first"], theirs["first"])).max()) for ours, theirs in pairs)


def _entries(chosen: dict[str, list[dict]], parity: float | None) -> list[dict]:
    entries = []
    reference = [success for line in chosen[THEIRS] for success in line["success"]]
    for way, lines in chosen.items():
        success = [success for line in lines for success in line["success"]]
        seconds = {name: sum(line[name] for line in lines) for name in ("wall", "solver", "configure")}
        plans = sum(line["plans"] for line in lines)
        entry = {
            "way": way,
            "episodes": len(success),
            "success": sum(success),
            "interval": wilson_interval(sum(success), len(success)),
            **seconds,
            "plans": plans,
            "plan": seconds["solver"] / plans if plans else None,
            "difference": parity if way == DROP_IN else None,
            "outcomes": sum(one == other for one, other in zip(success, reference, strict=True)),
            "others": sum(line["others"] for line in lines) / seconds["wall"],
            "faster": None,
        }
        if way in OURS and parity is not None and parity <= PARITY:
            entry["faster"] = {
                name: sum(line[name] for line in chosen[THEIRS]) / seconds[name]
                for name in ("solver", "wall")
            }
        entries.append(entry)
    return entries


def doubts(entries: Sequence[dict]) -> list[str]:
    """Why the times are not to be trusted; none on a quiet machine."""
    most = max((entry["others"] for entry in entries), default=0.0)
    return [f"other processes took {most:.1f} cores: times are not to be trusted"] if most > BUSY else []


def table(entries: Sequence[dict], machine: dict) -> str:
    """Markdown: a table for each kind of tasks, and what it means."""
    parts = [
        f"{machine['processor']}, {machine['isa']}, {machine['cores']} cores, fastwm {machine['fastwm']} "
        f"({machine['commit']}), torch {machine['torch']}, stable-worldmodel {machine['peers'].get('stable-worldmodel', '?')}",
        *[f"{doubt[0].upper()}{doubt[1:]}." for doubt in doubts(entries)],
    ]
    columns = (
        "environments",
        "planned by",
        "goals reached (95 %)",
        "evaluation",
        "in the solver",
        "per plan",
    )
    head = f"| {' | '.join(columns)} | first plan differs by |"
    for tasks in dict.fromkeys(entry["tasks"] for entry in entries):
        rows = [_row(entry) for entry in entries if entry["tasks"] == tasks]
        parts.append("\n".join([f"**{tasks}**", "", head, "|---|---|---|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def _row(entry: dict) -> str:
    low, high = entry["interval"]
    rate = f"{entry['success']} of {entry['episodes']} ({100 * low:.0f}–{100 * high:.0f} %)"
    cells = [str(entry["environments"]), NAMES[entry["way"]], rate]
    if entry["way"] in OURS and entry["faster"] is None:
        cells += ["no parity, no speed", "", ""]
    elif entry["plan"] is None:
        cells += [f"{entry['wall']:.1f} s", "", ""]
    else:
        faster = entry["faster"]
        wall = f" ({faster['wall']:.1f}×)" if faster else ""
        solver = f" ({faster['solver']:.1f}×)" if faster else ""
        cells += [
            f"{entry['wall']:.1f} s{wall}",
            f"{entry['solver']:.2f} s{solver}",
            f"{1e3 * entry['plan']:.0f} ms",
        ]
    cells.append("" if entry["difference"] is None else f"{entry['difference']:.1e}")
    return f"| {' | '.join(cells)} |"
