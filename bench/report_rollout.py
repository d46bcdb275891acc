"""rollout.json as Markdown: the headline, fastwm against the fastest of its peers, every way, other sizes, small models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

LEWM = {"model": "lewm", "B": 1, "S": 300, "T": 5, "K": 1}
DTYPES = ("float32", "bfloat16", "int8")  # widest first
PYTORCH = ("torch eager", "torch.compile", "stable-worldmodel")
PEERS = {"PyTorch": PYTORCH, "OpenVINO": ("openvino",), "ONNX Runtime": ("onnxruntime",)}
NAMES = {
    "torch eager": "PyTorch",
    "torch.compile": "torch.compile",
    "stable-worldmodel": "stable-worldmodel's `LeWM`",
    "openvino": "OpenVINO",
    "onnxruntime": "ONNX Runtime",
    "avx512_bf16": "AVX-512 with bfloat16",
    "avx512": "AVX-512",
    "avx2": "AVX2",
    "baseline": "baseline (SSE4.2)",
    "small": "a small transformer",
    "demo-push": "the demo's, push",
    "tdmpc2-5m": "TD-MPC2's MLP dynamics, 5M",
}


class Lines:
    """The lines whose parity check passed, to be asked for."""

    def __init__(self, content: dict) -> None:
        self.machine: dict = content["machine"]
        self.all = [line for line in content["results"] if "model" in line and line["passed"]]
        self.isa = next((i for i in self.machine["isas"] if any(line["isa"] == i for line in self.all)), None)

    def where(self, **fields: object) -> list[dict]:
        """Lines with these values; a tuple or list stands for any of its members."""
        wanted = {
            name: value if isinstance(value, (tuple, list)) else (value,) for name, value in fields.items()
        }
        return [line for line in self.all if all(line.get(name) in values for name, values in wanted.items())]

    def ours(self, **fields: object) -> dict | None:
        """fastwm's line on the best instruction set measured."""
        return fastest(self.where(engine="fastwm", isa=self.isa, **fields))

    def peer(self, engines: Sequence[str], dtype: str, **fields: object) -> dict | None:
        """The fastest of these engines in that dtype or a wider one: what a user could run instead."""
        return fastest(self.where(engine=tuple(engines), dtype=DTYPES[: DTYPES.index(dtype) + 1], **fields))

    def threads(self, **fields: object) -> list[int]:
        return sorted({line["threads"] for line in self.where(engine="fastwm", isa=self.isa, **fields)})


def fastest(lines: Iterable[dict]) -> dict | None:
    return min(lines, key=lambda line: line["milliseconds"]["median"], default=None)


# ---- blocks ----------------------------------------------------------------------------------------------------------------


def headline(content: dict) -> str:
    """One sentence: an iteration in each dtype, on as many threads as were measured, against the fastest peers."""
    lines = Lines(content)
    if not (counts := lines.threads(**LEWM)):
        return ""
    setting = {**LEWM, "threads": counts[-1]}
    phrases = []
    for dtype in reversed(DTYPES):
        if (ours := lines.ours(dtype=dtype, **setting)) is None:
            continue
        peers = {name: lines.peer(PEERS[name], dtype, **setting) for name in ("PyTorch", "OpenVINO")}
        rivals = " and ".join(f"{_ms(peer)} ({name})" for name, peer in peers.items() if peer)
        if phrases:
            phrases.append(f"in {dtype}, {_ms(ours)} ms" + (f" against {rivals}" if rivals else ""))
        else:
            phrases.append(
                f"takes {_ms(ours)} ms in {dtype}"
                + (f", where the fastest peers take {rivals}" if rivals else "")
            )
    return (
        "**One planning iteration of the published [LeWM](https://arxiv.org/abs/2603.19312) predictor (300 candidates, 5 "
        f"blocks), on {_threads(counts[-1])} of an {lines.machine['processor']}, {'; '.join(phrases)}.**"
    )


def ratios(content: dict) -> str:
    """fastwm's times, share of the peak, and how many times as long the fastest way of each peer takes."""
    lines = Lines(content)
    counts = lines.threads(**LEWM)
    peers = [name for name, engines in PEERS.items() if lines.where(engine=engines, **LEWM)]
    rows = []
    for dtype in DTYPES:
        for count in counts:
            setting = {**LEWM, "threads": count}
            if (ours := lines.ours(dtype=dtype, **setting)) is None:
                continue
            cells = [f"{dtype}, {_threads(count)}", f"**{_ms(ours)}**", f"{ours['efficiency']:.0%}"]
            for name in peers:
                cells.append(_ratio(ours, lines.peer(PEERS[name], dtype, **setting)))
            rows.append(cells)
    if not rows:
        return ""
    head = ["", "fastwm, ms", "of the peak", *(f"{name} takes" for name in peers)]
    return f"{_table(head, rows)}\n\n{_caption(lines, counts)}"


def ways(content: dict) -> str:
    """Every way measured: milliseconds by dtype and threads."""
    lines = Lines(content)
    own = lines.where(**LEWM)
    columns = [
        (d, n)
        for d in DTYPES
        for n in sorted({x["threads"] for x in own})
        if lines.where(dtype=d, threads=n, **LEWM)
    ]
    names = dict.fromkeys((x["engine"], x["isa"] if x["engine"] == "fastwm" else "") for x in own)
    rows = []
    for engine, isa in sorted(names, key=lambda name: name[0] == "fastwm"):
        one = {"engine": engine, **({"isa": isa} if isa else {}), **LEWM}
        cells = [f"fastwm, {NAMES.get(isa, isa)}" if isa else NAMES.get(engine, engine)]
        for dtype, count in columns:
            found = fastest(lines.where(dtype=dtype, threads=count, **one))
            best = found is not None and found is fastest(lines.where(dtype=dtype, threads=count, **LEWM))
            cells.append("–" if found is None else f"**{_ms(found)}**" if best else _ms(found))
        rows.append(cells)
    head = ["ms", *(f"{dtype}, {_threads(count)}" for dtype, count in columns)]
    return f"<details><summary>Every way</summary>\n\n{_table(head, rows)}\n\n</details>" if rows else ""


def sizes(content: dict) -> str:
    """The published LeWM with other candidates, horizons, contexts and environments: share of the peak."""
    lines = Lines(content)
    own = lines.where(engine="fastwm", isa=lines.isa, model="lewm", threads=1)
    settings = sorted({(x["B"], x["S"], x["T"], x["K"]) for x in own}, key=lambda s: (s != (1, 300, 5, 1), s))
    if len(settings) < 2:
        return ""
    dtypes = [dtype for dtype in DTYPES if any(x["dtype"] == dtype for x in own)]
    rows = []
    for setting in settings:
        found = {x["dtype"]: x for x in own if (x["B"], x["S"], x["T"], x["K"]) == setting}
        cells = [f"{found[d]['efficiency']:.0%} ({_ms(found[d])} ms)" if d in found else "–" for d in dtypes]
        rows.append([*map(str, setting), *cells])
    head = [
        "environments",
        "candidates",
        "horizon",
        "context",
        *(f"{dtype}, of the peak" for dtype in dtypes),
    ]
    return f"The same predictor with other candidates, horizons and contexts, on 1 thread:\n\n{_table(head, rows)}"


def small_models(content: dict) -> str:
    """Small models and MLP dynamics, against the fastest PyTorch."""
    lines = Lines(content)
    models = [
        m for m in dict.fromkeys(x["model"] for x in lines.all) if m != "lewm" and lines.threads(model=m)
    ]
    counts = sorted({n for m in models for n in lines.threads(model=m)})
    rows = []
    for model in models:
        for dtype in DTYPES:
            if (any_of := lines.ours(model=model, dtype=dtype)) is None:
                continue
            cells = [NAMES.get(model, model), f"{any_of['S']} × {any_of['T']}", dtype]
            for count in counts:
                ours = lines.ours(model=model, dtype=dtype, threads=count)
                peer = lines.peer(PYTORCH, dtype, model=model, threads=count)
                cells += ["–", "–"] if ours is None else [_ms(ours), _ratio(ours, peer)]
            rows.append(cells)
    head = ["model", "candidates × horizon", "dtype"]
    head += [cell for n in counts for cell in (f"{_threads(n)}, ms", "PyTorch takes")]
    return f"Small models and MLP dynamics, one iteration:\n\n{_table(head, rows)}" if rows else ""


# ---- words and numbers -----------------------------------------------------------------------------------------------------


def _caption(lines: Lines, counts: Sequence[int]) -> str:
    m, own = lines.machine, lines.where(**LEWM)
    repeats = sorted({line["repeats"] for line in own})
    versions = ", ".join(
        [f"fastwm {m['fastwm']} ({m['commit']})", f"torch {m['torch']}", *_versions(m["peers"])]
    )
    errors, faster = [], []
    for dtype in DTYPES:
        found = [
            x["relative_cost_error"] for x in lines.where(engine="fastwm", isa=lines.isa, dtype=dtype, **LEWM)
        ]
        errors += [f"{max(found):.1e} in {dtype}"] if found else []
        one, all_threads = (lines.ours(dtype=dtype, threads=count, **LEWM) for count in (1, counts[-1]))
        if one and all_threads and one is not all_threads:
            faster.append(
                f"{one['milliseconds']['median'] / all_threads['milliseconds']['median']:.2f} in {dtype}"
            )
    return (
        "`python -m bench.run rollout`: one CEM iteration (sample, roll out, score, refit) of LeWM at its published size (192 "
        "wide, 6 layers, 16 heads of 64), 300 candidates, 5 blocks, 1 frame of context; medians of "
        f"{' to '.join(dict.fromkeys(map(str, (repeats[0], repeats[-1]))))}, all ways in turns, on an {m['processor']} "
        f"({NAMES.get(str(lines.isa), lines.isa)}); {versions}. A peer's time is its fastest in that dtype or a wider one. The "
        "peak is what the machine's fused multiply-adds of the dtype were measured to reach, the work the fewest operations "
        "that compute the result."
        + (f" On {_threads(counts[-1])} it is {', '.join(faster)} times as fast as on one." if faster else "")
        + f" Largest relative error of a cost against float64: {', '.join(errors)}. [All results](bench/results/rollout.json)."
    )


def _versions(peers: dict) -> list[str]:
    return [f"{name} {version}" for name, version in peers.items() if name != "transformers"]


def _ratio(ours: dict, peer: dict | None) -> str:
    if peer is None:
        return "–"
    what = f"{peer['engine']} {peer['dtype']}" if peer["engine"] in PYTORCH else peer["dtype"]
    return f"**{peer['milliseconds']['median'] / ours['milliseconds']['median']:.1f} ×** ({_ms(peer)} ms, {what})"


def _ms(line: dict) -> str:
    value = line["milliseconds"]["median"]
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
