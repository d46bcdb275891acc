"""Results as the benchmarks write them, invented: every number follows from the arguments."""

from __future__ import annotations

import itertools

MACHINE = {
    "fastwm": "0.1.0",
    "torch": "2.14.1",
    "isa": "avx512_bf16",
    "isas": ["avx512_bf16", "avx512", "avx2", "baseline"],
    "processor": "AMD EPYC",
    "cores": 2,
    "load": 0.1,
    "commit": "0123456789ab",
    "peers": {"openvino": "2026.1", "onnxruntime": "1.30", "stable-worldmodel": "0.1.1"},
    "date": "2026-11-22T13:04:12Z",
}
PEAKS = {"float32": 276.0, "bfloat16": 517.0, "int8": 1129.0}
# One thread, milliseconds of LeWM's 54.35 GFLOP.
WAYS = {
    ("fastwm avx512_bf16", "float32"): 219.0,
    ("fastwm avx512_bf16", "bfloat16"): 121.0,
    ("fastwm avx512_bf16", "int8"): 72.0,
    ("fastwm avx512", "float32"): 220.0,
    ("fastwm avx2", "float32"): 400.0,
    ("torch eager", "float32"): 899.0,
    ("torch eager", "bfloat16"): 396.0,
    ("torch.compile", "float32"): 897.0,
    ("torch.compile", "bfloat16"): 384.0,
    ("stable-worldmodel", "float32"): 910.0,
    ("stable-worldmodel", "bfloat16"): 400.0,
    ("openvino", "float32"): 456.0,
    ("openvino", "bfloat16"): 264.0,
    ("openvino", "int8"): 250.0,
    ("onnxruntime", "float32"): 500.0,
}


def line(
    way: str, dtype: str, milliseconds: float, *, model: str = "lewm", B: int = 1, S: int = 300, T: int = 5, K: int = 1,
    threads: int = 1, gflop: float = 54.35, passed: bool = True,
) -> dict:  # fmt: skip
    engine, _, isa = way.partition(" ") if way.startswith("fastwm") else (way, "", "")
    peak = PEAKS[dtype] * threads
    found = {
        "model": model,
        "B": B,
        "S": S,
        "T": T,
        "K": K,
        "threads": threads,
        "way": f"{way} {dtype}",
        "engine": engine,
    }
    found |= {
        "isa": isa or "PyTorch",
        "dtype": dtype,
        "passed": passed,
        "relative_cost_error": 1e-7,
        "gflop": gflop,
    }
    if passed:
        times = {
            "median": milliseconds,
            "min": 0.97 * milliseconds,
            "q1": 0.99 * milliseconds,
            "q3": 1.02 * milliseconds,
        }
        gflops = gflop / milliseconds * 1e3
        found |= {
            "milliseconds": {**times, "max": 1.1 * milliseconds},
            "gflops": gflops,
            "peak_gflops": peak,
            "repeats": 20,
        }
        found["efficiency"] = gflops / peak
    return found


def rollout(*, only: str = "") -> dict:
    """rollout.json: LeWM on 1 and 2 threads, other settings, other models."""
    lines = []
    for (way, dtype), threads in itertools.product(WAYS, (1, 2)):
        lines.append(line(way, dtype, WAYS[way, dtype] / (1 if threads == 1 else 1.95), threads=threads))
    for (way, dtype), ms in WAYS.items():
        if way == "fastwm avx512_bf16":
            for S in (32, 1024, 4096):
                lines.append(
                    line(way, dtype, ms * S / 300 * (1.2 if S == 32 else 1), S=S, gflop=54.35 * S / 300)
                )
            for T, gflop in ((1, 6.3), (10, 139.1)):
                lines.append(line(way, dtype, ms * gflop / 54.35, T=T, gflop=gflop))
            lines.append(line(way, dtype, ms * 1.5, K=3, gflop=54.35 * 1.5))
            for B in (8, 50):
                lines.append(line(way, dtype, ms * B, B=B, gflop=54.35 * B))
        for model, scale in (("small", 0.02), ("demo-push", 0.03), ("tdmpc2-5m", 0.09)):
            size = {"small": (300, 5), "demo-push": (64, 12), "tdmpc2-5m": (512, 3)}[model]
            for threads in (1, 2):
                lines.append(
                    line(
                        way,
                        dtype,
                        ms * scale / threads,
                        model=model,
                        S=size[0],
                        T=size[1],
                        gflop=54.35 * scale,
                        threads=threads,
                    )
                )
    return {"machine": MACHINE, "results": [found for found in lines if only in found["way"]]}
