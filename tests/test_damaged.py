"""Damaged data sets: a message naming file and episode, and the rest of the episodes with `skip_damaged`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from damage import check, cut
from recordings import LENGTHS, actions, pictures, write_lance, write_video

from fastwm.data import Episodes, EpisodeWriter


@pytest.mark.parametrize(
    ("suffix", "options", "reason"),
    [
        (".mp4", {}, "damaged, or not a video"),
        (".mp4", {"movflags": "faststart"}, r"damaged: it ends after \d+ of 12 frames"),
        (".webm", {}, r"damaged: it ends after [\d.]+ of 1.2 seconds"),
        (".gif", {}, r"damaged: it ends (in the middle, )?after \d+ "),
    ],
)
def test_a_video_cut_short(tmp_path: Path, suffix: str, options: dict[str, str], reason: str) -> None:
    pytest.importorskip("av")
    for number, length in enumerate(LENGTHS):
        write_video(
            tmp_path / f"{number}{suffix if number == 1 else '.mp4'}", pictures(number, length), **options
        )
    assert len(Episodes(tmp_path)) == len(LENGTHS)
    cut(tmp_path / f"1{suffix}", 0.8)
    episodes = check(tmp_path, rf"1\{suffix}: {reason}", [0, 2, 3, 4])
    assert episodes.damaged[0].file == tmp_path / f"1{suffix}"


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (
            lambda file: np.save(file, actions(1, 12)[:9]),
            r"1.npy: action: expected 12 rows, as the video has frames, got 9",
        ),
        (
            lambda file: np.save(file, actions(1, 12)[:, :1]),
            r"1.mp4: the numbers beside it are action \[1\], other episodes'",
        ),
        (
            lambda file: np.save(file, np.full((12, 2), np.nan)),
            r"column 'action': row 7 is not finite \(1.mp4, step 0\); skip_damaged",
        ),
        (lambda file: file.write_bytes(b"\x93NUMPY no"), "1.npy: damaged: "),
        (
            lambda file: np.save(file, np.array(["a"] * 12)),
            r"1.npy: action: expected numbers \[12, …\], got <U1 \[12\]",
        ),
    ],
)
def test_actions_that_do_not_fit_a_video(tmp_path: Path, write: Callable[[Path], None], reason: str) -> None:
    pytest.importorskip("av")
    for number, length in enumerate(LENGTHS):
        write_video(tmp_path / f"{number}.mp4", pictures(number, length))
        np.save(tmp_path / f"{number}.npy", actions(number, length))
    write(tmp_path / "1.npy")
    check(tmp_path, reason, [0, 2, 3, 4])


def test_lance_rows_that_are_not_episodes(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("lance")
    steps = np.concatenate([np.arange(length) for length in LENGTHS])
    steps[10] = 11
    write_lance(tmp_path / "a.lance", step_idx=pa.array(steps, pa.int32()))
    check(tmp_path / "a.lance", "a.lance: episode 1: its steps are not 0 to 11, in order", [0, 2, 3, 4])


def test_lance_pictures_that_are_none(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("lance")
    from recordings import png

    blobs = [png(frame) for number, length in enumerate(LENGTHS) for frame in pictures(number, length)]
    blobs[9] = blobs[9][:60]
    write_lance(tmp_path / "a.lance", pixels=pa.array(blobs, pa.binary()))
    episodes = Episodes(tmp_path / "a.lance")
    assert episodes.batch([0], 7)["pixels"].shape[1] == 7
    with pytest.raises(
        ValueError, match=r"a.lance: column 'pixels': row 9 \(episode 1\) is no whole picture"
    ):
        episodes.batch([7], 4)


def hdf5(path: Path) -> Path:
    """Episodes of `LENGTHS` in our own format."""
    with EpisodeWriter(path / "a.h5") as writer:
        for number, length in enumerate(LENGTHS):
            writer.append(
                pixels=pictures(number, length), action=actions(number, length), state=actions(number, length)
            )
    return path / "a.h5"


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(("name", "row"), [("action", 8), ("state", 18)])
def test_hdf5_rows_that_are_not_finite(tmp_path: Path, name: str, row: int, in_memory: bool) -> None:
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        file[name][row, 1] = np.inf
    message = (
        rf"a.h5: column '{name}': row {row} is not finite \(episode 1, step {row - 7}\); .*--skip-damaged"
    )
    episodes = check(path, message, [0, 2, 3, 4], in_memory=in_memory)
    assert str(episodes.damaged[0]) == f"{path}: episode 1: {name!r} is not finite at its step {row - 7}"
    assert [episodes.label(number) for number in range(4)] == [f"episode {n}" for n in (0, 2, 3, 4)]
    assert np.isfinite(episodes.action_statistics()[0]).all()
    both = [offset for part in episodes.split(0.5) for offset in part.offsets.tolist()]
    assert sorted(both) == [0, 19, 20, 29]


@pytest.mark.parametrize(
    ("column", "values", "message", "kept"),
    [
        ("ep_len", [7, 12, 0, 9, 5], "column 'ep_len': episode 2 has no steps", [0, 1, 3, 4]),
        ("ep_len", [7, 13, 1, 9, 5], "column 'ep_offset': episodes overlap", None),
        ("ep_len", [7, 12, 1, 9, 6], "column 'action': expected 35 steps, got", [0, 1, 2, 3]),
        ("ep_offset", [0, 7, 19, 20, 30], "column 'action': expected 35 steps", [0, 1, 2, 3]),
        ("ep_offset", [0, 7, 19, 4, 29], "column 'ep_offset': episodes overlap", [0, 1, 2, 4]),
        ("ep_offset", [0, 7, 19, 20, 2**63 - 2], r"column 'action': expected \d+ steps", [0, 1, 2, 3]),
    ],
)
def test_hdf5_lengths_that_do_not_add_up(
    tmp_path: Path, column: str, values: list[int], message: str, kept: list[int] | None
) -> None:
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        file[column][:] = values
    if kept is not None:
        check(path, message, kept)
        return
    with pytest.raises(ValueError, match=message):
        Episodes(path)
    episodes = Episodes(path, skip_damaged=True)
    assert episodes.lengths.tolist() == [7, 13, 9, 5]
    assert "overlaps the one before" in str(episodes.damaged[0])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        (
            "action",
            np.zeros((34, 0), np.float32),
            r"column 'action': expected floats .*, got float32 \[steps, 0\]",
        ),
        ("pixels", np.zeros((34, 0, 8, 3), np.uint8), "column 'pixels': expected uint8 .*, got uint8"),
        ("reward", np.float32(1), r"column 'reward': expected \d+ steps, got float32 \[\]"),
    ],
)
@pytest.mark.parametrize("skip_damaged", [False, True])
def test_hdf5_columns_without_values(
    tmp_path: Path, name: str, values: np.ndarray, message: str, skip_damaged: bool
) -> None:
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        file.pop(name, None)
        file[name] = values
    with pytest.raises(ValueError, match=message):
        Episodes(path, skip_damaged=skip_damaged)


def test_hdf5_numbers_that_float32_has_not(tmp_path: Path) -> None:
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        states = file["state"][:].astype(np.float64)
        states[18, 1] = 1e300
        del file["state"]
        file["state"] = states
    check(path, r"column 'state': row 18 is beyond float32 \(episode 1, step 11\)", [0, 2, 3, 4])


def test_where_nothing_is_left_the_first_damage_is_told(tmp_path: Path) -> None:
    path = hdf5(tmp_path)
    with h5py.File(path, "r+") as file:
        file["state"][:] = np.nan
    with pytest.raises(
        ValueError, match=r"a.h5: no episode can be used: .*episode 0: 'state' is not finite at its step 0"
    ):
        Episodes(path, skip_damaged=True)
