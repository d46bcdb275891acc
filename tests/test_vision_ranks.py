"""Two processes learn an encoder together as one does alone: masks are drawn for the whole batch and shared out."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_data import write_dots

from fastwm.models.vision import load_encoder

SCRIPT = """
import sys
from fastwm.training import train_recipe
from fastwm.training.recipes.catalogue import run_config, vision_recipe
objective, data, run = sys.argv[1:]
sizes = {"image_size": 16, "patch_size": 2, "width": 24, "depth": 1, "heads": 2, "mlp_dim": 24}
clips = {"frames": 4, "tubelet": 2} if objective == "vjepa" else {}
config = run_config(
    objective, steps=8, batch_size=8, precision="float32", threads=1, tensorboard=False, validation_fraction=0.2,
    warmup_steps=2, log_every=1, device="cpu",
)
train_recipe(vision_recipe(objective, **sizes, **clips), data, run, config, progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["ijepa", "vjepa", "lejepa"])
def test_two_processes_learn_what_one_does(objective: str, tmp_path: Path) -> None:
    data, script = write_dots(tmp_path / "dots.h5"), tmp_path / "train.py"
    script.write_text(SCRIPT)
    for run, start in (
        ("alone", [sys.executable]),
        ("both", [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]),
    ):
        command = [*start, str(script), objective, str(data), str(tmp_path / run)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120
        )  # they may wait for each other
        assert done.returncode == 0, done.stderr
    rows = [list(csv.DictReader((tmp_path / run / "metrics.csv").open())) for run in ("alone", "both")]
    for one, two in zip(*rows, strict=True):
        assert float(two["loss"]) == pytest.approx(float(one["loss"]), rel=1e-4)
    one, two = (load_encoder(tmp_path / run).state_dict() for run in ("alone", "both"))
    for name, tensor in one.items():
        if objective == "lejepa" and name == "trunk.norm.bias":
            continue  # its projector's batch normalisation cancels it: the gradient is rounding
        torch.testing.assert_close(
            two[name], tensor, rtol=1e-3, atol=1e-4, msg=lambda text, n=name: f"{n}: {text}"
        )
