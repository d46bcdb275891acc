"""What each objective learns: logs as they are read, the page, the curves."""

from __future__ import annotations

import copy
from pathlib import Path
from xml.etree import ElementTree

import pytest
from bench_lines import MACHINE

from bench import learning
from bench.learning_page import curves, page

SPREAD = {"step": [5.0, 10.0], "effective_rank": [3.0, 21.25], "latent_std_least": [0.5, 0.25]}
PLANNED = {
    "objective": "world-model",
    "world": "two-room",
    "steps": 10,
    "command": "fastwm train a b",
    "seconds": 90.0,
    "threads": 2,
    "metrics": {"step": [5.0, 10.0], "loss": [2.0, 0.5]},
    "validation": SPREAD | {"open_loop_10": [2.0, 0.01], "copy_last_10": [1.0, 1.0]},
    "episodes": 100,
    "goals": {
        "trained": {"rate": 0.97, "interval": [0.92, 0.99]},
        "random actions": {"rate": 0.02, "interval": [0.01, 0.07]},
    },
}
R2 = {"probe_r2": 0.9, "probe_r2_untrained": 0.8, "probe_r2_pixels": 0.7}
FEW = {"probe_r2_few": 0.6, "probe_r2_few_untrained": 0.5, "probe_r2_few_pixels": 0.4}
PROBED = {name: value for name, value in PLANNED.items() if name not in ("goals", "episodes")} | {
    "objective": "lejepa",
    "seconds": None,
    "validation": SPREAD | {name: [0.1, value] for name, value in (R2 | FEW).items()},
}
CONTENT = {"machine": MACHINE, "results": [PLANNED, PROBED]}


def test_the_page_says_what_was_measured() -> None:
    text = page(CONTENT)
    assert "| world-model | 10 | 1.5 (2) | 0.97 | 0.92 to 0.99 | 0.02 | 0.01 to 0.07 | 21.2 | 0.250 |" in text
    numbers = " | ".join(f"{value:.3f}" for value in (R2 | FEW).values())
    assert f"| lejepa | two-room | 10 | – | {numbers} | 21.2 | 0.250 |" in text
    assert text.count("fastwm train a b") == 2
    for table in text.split("\n\n"):
        columns = {row.count("|") for row in table.splitlines() if row.startswith("|")}
        assert len(columns) <= 1, table


def test_every_curve_is_drawn_within_its_panel(tmp_path: Path) -> None:
    content = copy.deepcopy(CONTENT)
    content["results"][1]["validation"]["probe_r2"] = [-0.3, None]
    curves(content, tmp_path / "learning.svg")
    root = ElementTree.parse(tmp_path / "learning.svg").getroot()
    lines = [x.attrib["d"] for x in root.iter("{http://www.w3.org/2000/svg}path")]
    drawn = [d for d in lines if "L" in d]
    assert (
        sum("line" in x.attrib["class"].split() for x in root.iter("{http://www.w3.org/2000/svg}path"))
        == 3 + 9
    )
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for path in drawn:
        for point in path[1:].split("L"):
            x, y = map(float, point.split())
            assert 0 <= x <= width
            assert 0 <= y <= height


def test_logs_are_read_by_column(tmp_path: Path) -> None:
    path = tmp_path / "validation.csv"
    path.write_text("step,probe_r2\n5,\n10,0.5\n")
    assert learning.columns(path) == {"step": [5.0, 10.0], "probe_r2": [None, 0.5]}


def test_the_frozen_encoder_has_to_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        learning.main(["--objectives", "frozen", "--runs", str(tmp_path)])
    assert "frozen needs the encoder of lejepa" in capsys.readouterr().err
