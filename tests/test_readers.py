"""Formats of others: videos, LeRobot version 3, Lance; each against what its own library wrote and decodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recordings import (
    CAMERAS,
    HEIGHT,
    LENGTHS,
    WIDTH,
    actions,
    decode,
    pictures,
    write_lance,
    write_lerobot,
    write_video,
)

from fastwm.data import Episodes
from fastwm.data.readers import open_reader

OFFSETS = np.cumsum(LENGTHS) - LENGTHS


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos with actions beside them, in all three ways."""
    pytest.importorskip("av")
    path = tmp_path_factory.mktemp("videos")
    for number, length in enumerate(LENGTHS):
        suffix = (".mp4", ".webm", ".mp4", ".gif", ".mp4")[number]
        file = path / "deeper" / f"clip_{number}{suffix}"
        write_video(file, pictures(number, length))
        moves = actions(number, length)
        if number % 3 == 0:
            np.save(file.with_suffix(".npy"), moves[:-1])
        elif number % 3 == 1:
            state = np.stack([np.full(length, number), np.arange(length)], axis=1)
            np.savez(file.with_suffix(".npz"), action=moves.astype(np.float64))
            assert state.shape == (length, 2)
        else:
            text = "x,y\n" + "".join(f"{x},{y}\n" for x, y in moves)
            file.with_suffix(".csv").write_text(text)
    return path


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot data set."""
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("lerobot") / "set"
    write_lerobot(path)
    return path


@pytest.fixture(scope="module")
def lance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Lance table."""
    pytest.importorskip("lance")
    path = tmp_path_factory.mktemp("lance") / "set.lance"
    write_lance(path)
    return path


def check_windows(episodes: Episodes, truth: list[np.ndarray], length: int, frame_skip: int) -> None:
    """Every window of `episodes` holds the frames of `truth` (one array an episode) and the actions between them."""
    starts = episodes.windows(length, frame_skip=frame_skip)
    assert len(starts) == sum(max(n - (length - 1) * frame_skip, 0) for n in LENGTHS)
    starts = np.random.default_rng(0).permutation(starts)
    batch = episodes.batch(starts, length, frame_skip=frame_skip)
    for place, start in enumerate(starts):
        number = int(np.searchsorted(OFFSETS, start, side="right")) - 1
        steps = start - OFFSETS[number] + frame_skip * np.arange(length)
        assert np.array_equal(batch["pixels"][place], truth[number][steps]), (number, steps)
        if "action" in batch:
            taken = actions(number, LENGTHS[number])[steps[0] : steps[-1]]
            assert np.array_equal(batch["action"][place].reshape(-1, 2), taken)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(("length", "frame_skip"), [(1, 1), (3, 2), (2, 5), (5, 1)])
def test_videos_give_the_frames_that_a_decoder_shows(
    videos: Path, length: int, frame_skip: int, workers: int
) -> None:
    episodes = Episodes(videos, workers=workers)
    assert (episodes.format, episodes.lengths.tolist(), episodes.action_dim) == ("videos", list(LENGTHS), 2)
    assert (episodes.columns, episodes.cameras, episodes.fps) == (("pixels", "action"), ("pixels",), 10)
    truth = [decode(file) for file in sorted((videos / "deeper").glob("clip_*.[mwg]*"))]
    assert [len(frames) for frames in truth] == list(LENGTHS)
    assert all(np.abs(t.astype(int) - pictures(n, len(t))).mean() < 25 for n, t in enumerate(truth))
    check_windows(episodes, truth, length, frame_skip)


def test_one_video_is_an_episode_without_actions(tmp_path: Path, videos: Path) -> None:
    (tmp_path / "a.mp4").write_bytes((videos / "deeper" / "clip_1.webm").read_bytes())
    episodes = Episodes(tmp_path / "a.mp4")
    assert (len(episodes), episodes.frames, episodes.has_actions, episodes.columns) == (
        1,
        12,
        False,
        ("pixels",),
    )
    assert set(episodes.batch([0, 5], 4, frame_skip=2)) == {"pixels"}
    for call in (lambda: episodes.action_dim, lambda: episodes.action_statistics()):
        with pytest.raises(
            ValueError, match=r"a.mp4 has no actions \(column 'action'\); there are \['pixels'\]"
        ):
            call()


def test_pictures_are_resized_as_pillow_does(videos: Path) -> None:
    native = Episodes(videos).batch([0], 3)["pixels"][0]
    square = Episodes(videos, image_size=12).batch([0], 3)["pixels"][0]
    wide = Episodes(videos, image_size=(10, 30)).batch([0], 3)["pixels"][0]
    for t in range(3):
        whole = Image.fromarray(native[t])
        middle = whole.crop(((WIDTH - HEIGHT) // 2, 0, (WIDTH + HEIGHT) // 2, HEIGHT))
        assert np.array_equal(square[t], middle.resize((12, 12), Image.Resampling.BILINEAR))
        assert np.array_equal(wide[t], whole.resize((30, 10), Image.Resampling.BILINEAR))
    for wrong in (0, 2.5, True, (1, 2, 3), "64"):
        with pytest.raises(ValueError, match="image_size: expected pixels, or"):
            Episodes(videos, image_size=wrong)


def test_videos_of_several_sizes_need_one(tmp_path: Path, videos: Path) -> None:
    write_video(tmp_path / "a.mp4", pictures(0, 3))
    write_video(tmp_path / "b.mp4", pictures(0, 3)[:, :16])
    with pytest.raises(ValueError, match=r"a.mp4: 32 x 24 pixels, .*b.mp4: 32 x 16 pixels: .*--image-size"):
        Episodes(tmp_path)
    assert Episodes(tmp_path, image_size=8).batch([0, 3], 2)["pixels"].shape == (2, 2, 8, 8, 3)


@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize(("length", "frame_skip"), [(1, 1), (3, 2), (5, 1)])
def test_lerobot_gives_each_episode_its_part_of_the_videos(
    lerobot: Path, camera: str, length: int, frame_skip: int
) -> None:
    episodes = Episodes(lerobot, camera=camera, workers=2)
    assert (episodes.format, episodes.lengths.tolist(), episodes.fps) == ("LeRobot v3", list(LENGTHS), 10)
    assert set(episodes.columns) == {"pixels", "action", "state", "reward", "next.done", *CAMERAS} - {camera}
    assert episodes.attributes["robot_type"] == "made up"
    files = [decode(lerobot / f"videos/{camera}/chunk-000/file-{n:03d}.mp4") for n in range(2)]
    all_frames = np.concatenate(files)
    check_windows(episodes, np.split(all_frames, OFFSETS[1:]), length, frame_skip)
    state = episodes.batch([OFFSETS[1]], 4)["state"][0]
    assert np.array_equal(state, [[1, t, 0.5] for t in range(4)])
    other = next(name for name in CAMERAS if name != camera)
    both = episodes.batch([9, 3], 2, columns=("pixels", other, "next.done"))
    assert np.array_equal(both[other], Episodes(lerobot, camera=other).batch([9, 3], 2)["pixels"])
    assert both["next.done"].shape == (2, 2, 1)
    assert episodes.batch([OFFSETS[1]], 4, columns=("reward",))["reward"][0, :, 0].tolist() == [1, 11, 21, 31]


def test_lerobot_pictures_in_parquet(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    write_lerobot(tmp_path, images=True)
    episodes = Episodes(tmp_path, camera=CAMERAS[0])
    check_windows(episodes, [pictures(number, length) for number, length in enumerate(LENGTHS)], 3, 2)
    assert Episodes(tmp_path, camera=CAMERAS[1], image_size=8).batch([0], 2)["pixels"].shape == (
        1,
        2,
        8,
        8,
        3,
    )


def test_one_of_several_cameras_is_chosen(lerobot: Path) -> None:
    with pytest.raises(ValueError, match=f"camera: expected one of {', '.join(CAMERAS)}, there are several"):
        Episodes(lerobot)
    with pytest.raises(ValueError, match=f"camera: expected one of {', '.join(CAMERAS)}, got 'side'"):
        Episodes(lerobot, camera="side")


@pytest.mark.parametrize("in_memory", [True, False, "auto"])
def test_lance_gives_what_was_written(lance: Path, in_memory: bool | str) -> None:
    episodes = Episodes(lance.parent if in_memory is True else lance, in_memory=in_memory)
    assert (episodes.format, episodes.lengths.tolist(), episodes.columns) == (
        "Lance",
        list(LENGTHS),
        ("pixels", "action"),
    )
    for length, frame_skip in ((1, 1), (3, 2), (5, 1)):
        truth = [pictures(number, count) for number, count in enumerate(LENGTHS)]
        check_windows(episodes, truth, length, frame_skip)
    small = Episodes(lance, image_size=8, workers=2).batch([1, 0, 8], 2)["pixels"]
    assert small.shape == (3, 2, 8, 8, 3)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"expected a file of episodes \(HDF5\), a LeRobot data set .* found none"
    ):
        Episodes(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "info.json").write_text('{"codebase_version": "v2.1"}')
    with pytest.raises(ValueError, match=r"info.json: codebase_version: expected v3.0, got 'v2.1'"):
        open_reader(tmp_path)
    for workers in (0, True, 1.5):
        with pytest.raises(ValueError, match="workers: expected at least 1"):
            Episodes(tmp_path, workers=workers)


def test_a_missing_package_is_named_with_its_extra(
    videos: Path, lance: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, path, extra in (("av", videos, "video"), ("lance", lance, "lance")):
        monkeypatch.setitem(__import__("sys").modules, module, None)
        with pytest.raises(
            ImportError, match=rf"reading it needs {module} .*pip install 'fastwm\[{extra}\]'"
        ):
            Episodes(path)
