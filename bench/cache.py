"""What a rollout fetches from beyond L2, by simulation: `python -m bench.cache` (needs valgrind; three minutes).

Cachegrind runs one rollout of a small LeWM on the AVX2 kernels (it knows no AVX-512) with a last level as large as the L2 that
the engine sees there and cuts its tiles for. Each kernel's misses stand beside the lines of packed weights that it must read
from memory once per tile and step: what is more than that, activations did.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

import torch

from bench.models import transformer
from fastwm.engine.importers import import_model
from fastwm.engine.pack import PackedPredictor
from fastwm.ops.rollout import rollout

ISA, SAMPLES, HORIZON, DEPTH, LINE = "avx2", 84, 5, 1, 64
L2 = 256 << 10  # what the processor that valgrind imitates says
GROUPS = {
    "products": r"::gemm<|::chain<|::fused_mlp",
    "attention": r"::attend<",
    "norms, gates and the rest": r"::Rollout<|::Job<",
}


def child() -> None:
    """The rollout that is watched."""
    spec = import_model(transformer(depth=DEPTH)).spec
    packed = PackedPredictor(spec, dtype="float32", isa=ISA)
    tile = packed.bound.tile(1, SAMPLES, HORIZON, 1, 1)
    actions = torch.randn(1, SAMPLES, HORIZON, spec.action_dim)
    rollout(packed, torch.randn(1, 1, spec.embed_dim), actions)
    layer = spec.layers[0]
    modulation = DEPTH * layer.modulation.weight.numel()
    each_step = DEPTH * sum(part.weight.numel() for part in (layer.qkv, layer.out, layer.fc1, layer.fc2))
    each_step += sum(dense.weight.numel() for dense in spec.head)
    tiles = -(-SAMPLES // tile)
    lines = (each_step * HORIZON + modulation * -(-tile * HORIZON // 96)) * tiles * 4 // LINE
    print(
        f"tile {tile} of {SAMPLES} candidates, {tiles} tiles of {HORIZON} steps: packed weights are {lines:,} lines"
    )


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("bench.cache needs valgrind")
    print(
        f"simulating {SAMPLES} candidates, {HORIZON} blocks, {DEPTH} layer: three minutes on an idle core, in silence",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/cachegrind"
        simulate = ["--tool=cachegrind", "--cache-sim=yes", "--D1=32768,8,64", f"--LL={L2},8,64"]
        run = subprocess.run(
            [
                "valgrind",
                *simulate,
                f"--cachegrind-out-file={out}",
                sys.executable,
                "-m",
                "bench.cache",
                "child",
            ],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "FASTWM_ISA": ISA, "OMP_NUM_THREADS": "1"},
        )
        command = ["cg_annotate", "--show=DLmr", "--sort=DLmr", "--threshold=0", "--auto=no", out]
        table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    print(run.stdout.strip())
    rows = re.findall(r"^\s*([\d,]+) \([ \d.]+%\)\s+(.*)$", table, re.MULTILINE)
    ours = [(int(count.replace(",", "")), name) for count, name in rows if f"fastwm::{ISA}::" in name]
    if not ours:
        sys.exit(
            "no kernel is named in the simulation: the extension is stripped of symbols; build it with "
            "CMAKE_BUILD_TYPE=RelWithDebInfo, which keeps them, and put it beside fastwm/__init__.py"
        )
    left = ours
    for group, pattern in GROUPS.items():
        found = [(count, name) for count, name in left if re.search(pattern, name)]
        left = [entry for entry in left if entry not in found]
        print(f"{group:28}{sum(count for count, _ in found):12,} lines read from beyond L2")


if __name__ == "__main__":
    child() if sys.argv[1:] == ["child"] else main()
