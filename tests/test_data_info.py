"""`fastwm data info`: what it says of each format, and the picture that it draws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recordings import CAMERAS, LENGTHS, actions, pictures, write_lerobot, write_video

from fastwm import cli
from fastwm.data import Episodes, EpisodeWriter
from fastwm.data.info import MARGIN, TEXT, check_frames, contact_sheet, describe


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Episodes of `LENGTHS` in our own format."""
    with EpisodeWriter(tmp_path / "a.h5", world="made up", fps=20) as writer:
        for number, length in enumerate(LENGTHS):
            writer.append(pixels=pictures(number, length), action=actions(number, length))
    return tmp_path / "a.h5"


def test_numbers(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "info", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["episodes"], found["frames"], found["fps"]) == ("HDF5", 5, 34, 20)
    assert found["length"] == {"least": 1, "median": 7.0, "most": 12}
    assert found["columns"]["pixels"] == {"dtype": "uint8", "shape": [24, 32, 3]}
    assert found["attributes"]["world"] == "made up"
    taken = np.concatenate([actions(number, length)[:-1] for number, length in enumerate(LENGTHS)]).astype(
        float
    )
    for name, values in (
        ("least", taken.min(0)),
        ("most", taken.max(0)),
        ("mean", taken.mean(0)),
        ("std", taken.std(0)),
    ):
        np.testing.assert_allclose(found["action"][name], values, rtol=1e-12)


def test_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    write_lerobot(tmp_path / "set")
    (tmp_path / f"set/videos/{CAMERAS[0]}/chunk-000/file-001.mp4").unlink()
    assert cli.main(["data", "info", str(tmp_path / "set")]) == 2
    assert "file-001.mp4: episode 3: no such file" in capsys.readouterr().err
    assert cli.main(["data", "info", str(tmp_path / "set"), "--skip-damaged", "--camera", CAMERAS[1]]) == 0
    text = capsys.readouterr().out
    for line in (
        "format     LeRobot v3",
        "episodes   3, of 1 to 12 (median 7) frames",
        "frames     20 at 10 per second",
        f"cameras    {', '.join(CAMERAS)}; pixels are {CAMERAS[1]}",
        "column     state  float32 [3]",
        "action     1: -10 to +0",
    ):
        assert line in text
    assert text.count("no such file") == 2


def test_check_finds_what_cannot_be_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("av")
    for number, length in enumerate(LENGTHS):
        write_video(tmp_path / f"{number}.mp4", pictures(number, length))
    assert check_frames(Episodes(tmp_path)) == []
    content = bytearray((tmp_path / "1.mp4").read_bytes())
    start = content.index(b"mdat") + 700
    content[start : start + 400] = b"\xff" * 400
    (tmp_path / "1.mp4").write_bytes(content)
    assert cli.main(["data", "info", str(tmp_path)]) == 0
    assert "damaged" not in capsys.readouterr().out
    assert cli.main(["data", "info", str(tmp_path), "--check"]) == 1
    assert "1.mp4: damaged" in capsys.readouterr().out


def test_the_sheet_shows_episodes_from_first_to_last_frame(file: Path, tmp_path: Path) -> None:
    assert cli.main(["data", "info", str(file), "--sheet", str(tmp_path / "new" / "a.png")]) == 0
    with Image.open(tmp_path / "new" / "a.png") as picture:
        sheet = np.asarray(picture)
    across, down = 128 + MARGIN, 96 + TEXT + MARGIN
    assert sheet.shape == (5 * down + MARGIN, 8 * across + MARGIN, 3)
    for row, length in enumerate(LENGTHS):
        shown = min(length, 8)
        for place, step in ((0, 0), (shown - 1, length - 1)):
            top, left = MARGIN + row * down + TEXT, MARGIN + place * across
            part = sheet[top : top + 96 : 4, left : left + 128 : 4]
            assert np.array_equal(part, pictures(row, length)[step])
        assert (sheet[MARGIN + row * down + TEXT + 40, MARGIN + shown * across :] == 255).all()
    few = contact_sheet(Episodes(file), rows=2, frames=3, size=12)
    assert few.size == (3 * (16 + MARGIN) + MARGIN, 2 * (12 + TEXT + MARGIN) + MARGIN)
    with pytest.raises(ValueError, match="rows: expected at least 1, got 0"):
        contact_sheet(Episodes(file), rows=0)


def test_without_actions(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "a.h5") as writer:
        writer.append(pixels=pictures(0, 1))
    found = describe(Episodes(tmp_path / "a.h5"))
    assert (found["action"], found["fps"], found["damaged"]) == (None, None, [])
