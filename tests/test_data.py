"""Episodes on disk: windows, batches, statistics, other writers' layouts, damaged files."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastwm.data import Episodes, EpisodeWriter, hdf5

LENGTHS = (5, 1, 9, 3, 12, 2)
quick = settings(deadline=None, max_examples=60)


def make_episode(number: int, length: int) -> dict[str, np.ndarray]:
    """An episode whose every value tells its episode and frame."""
    frame = np.arange(length)
    pixels = np.zeros((length, 4, 6, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = number, frame[:, None, None]
    action = np.stack([frame + 100 * number, -frame], axis=1).astype(np.float32)
    action[-1] = 0
    state = np.stack([np.full(length, number), frame, frame**2], axis=1).astype(np.float32)
    return {"pixels": pixels, "action": action, "state": state}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of episodes of `LENGTHS`."""
    path = tmp_path_factory.mktemp("episodes") / "ours.h5"
    with EpisodeWriter(path, world="made up", seed=3) as writer:
        for number, length in enumerate(LENGTHS):
            writer.append(**make_episode(number, length))
    return path


def write_as_others_do(path: Path, **dataset: object) -> None:
    """The same episodes as stable-worldmodel writes them: chunked, no state, float64, NaN for an episode's
    last action.
    """
    episodes = [make_episode(number, length) for number, length in enumerate(LENGTHS)]
    with h5py.File(path, "w", libver="latest") as file:
        for name, other in (("pixels", "pixels"), ("action", "action"), ("state", "proprio")):
            values = np.concatenate([episode[name] for episode in episodes])
            if name != "pixels":
                values = values.astype(np.float64)
            if name == "action":
                values[np.cumsum(LENGTHS) - 1] = np.nan
            file.create_dataset(other, data=values, maxshape=(None, *values.shape[1:]), **dataset)
        file["name"] = np.array([b"word"] * sum(LENGTHS), dtype=h5py.string_dtype())
        file["ep_len"] = np.array(LENGTHS, np.int32)
        file["ep_offset"] = (np.cumsum(LENGTHS) - LENGTHS).astype(np.int64)


@pytest.mark.parametrize("in_memory", [True, False, "auto"])
def test_what_was_written_is_read(path: Path, in_memory: bool | str) -> None:
    episodes = Episodes(path, in_memory=in_memory)
    assert len(episodes) == len(LENGTHS)
    assert episodes.frames == sum(LENGTHS)
    assert episodes.columns == ("action", "pixels", "state")
    assert episodes.attributes["world"] == "made up"
    assert episodes.attributes["seed"] == 3
    for number, (length, offset) in enumerate(zip(LENGTHS, episodes.offsets, strict=True)):
        batch, written = episodes.batch([offset], length), make_episode(number, length)
        assert np.array_equal(batch["pixels"][0], written["pixels"])
        assert np.array_equal(batch["action"][0], written["action"][:-1])
        assert np.array_equal(batch["state"][0], written["state"])
        assert (batch["pixels"].dtype, batch["action"].dtype, batch["state"].dtype) == (
            np.uint8,
            np.float32,
            np.float32,
        )


def test_columns_lie_where_stable_worldmodel_looks_for_them(path: Path) -> None:
    with h5py.File(path, "r", swmr=True) as file:
        assert set(file) == {"pixels", "action", "state", "ep_len", "ep_offset"}
        assert file["ep_len"].dtype == np.int32
        assert file["ep_offset"].dtype == np.int64
        assert file["ep_len"][:].tolist() == list(LENGTHS)
        assert file["ep_offset"][:].tolist() == [0, 5, 6, 15, 18, 30]
        assert file["pixels"].shape == (32, 4, 6, 3)
        assert file["pixels"].chunks is None
        assert np.isfinite(file["action"][:]).all()


@quick
@given(length=st.integers(1, 6), frame_skip=st.integers(1, 4), data=st.data())
def test_windows_never_cross_episodes(path: Path, length: int, frame_skip: int, data: st.DataObject) -> None:
    episodes = Episodes(path)
    starts = episodes.windows(length, frame_skip=frame_skip)
    span = (length - 1) * frame_skip + 1
    expected = [
        offset + place
        for offset, count in zip(episodes.offsets, LENGTHS, strict=True)
        for place in range(count)
        if place + span <= count
    ]
    assert starts.tolist() == expected
    if not expected:
        return
    chosen = np.array(data.draw(st.lists(st.sampled_from(expected), min_size=1, max_size=9)))
    batch = episodes.batch(chosen, length, frame_skip=frame_skip)
    assert batch["pixels"].shape == (len(chosen), length, 4, 6, 3)
    assert batch["action"].shape == (len(chosen), length - 1, 2 * frame_skip)
    number, frame = batch["state"][..., 0], batch["state"][..., 1]
    assert (number == number[:, :1]).all()
    assert np.array_equal(frame, frame[:, :1] + frame_skip * np.arange(length))
    assert np.array_equal(batch["pixels"][..., 0, 0, 1], frame)
    # Blocks hold the actions taken from one frame to the next, in order.
    steps = np.arange(frame_skip).reshape(1, 1, -1)
    taken = frame[:, :-1, None] + steps
    assert np.array_equal(batch["action"].reshape(*taken.shape, 2)[..., 1], -taken)
    assert np.array_equal(
        batch["action"].reshape(*taken.shape, 2)[..., 0], taken + 100 * number[:, :-1, None]
    )


@pytest.mark.parametrize("dataset", [{"chunks": True}, {"chunks": True, "compression": "gzip"}])
@pytest.mark.parametrize("in_memory", [True, False, "auto"])
def test_files_of_other_writers_are_read(
    path: Path, tmp_path: Path, dataset: dict, in_memory: bool | str
) -> None:
    write_as_others_do(tmp_path / "theirs.h5", **dataset)
    theirs, ours = Episodes(tmp_path / "theirs.h5", in_memory=in_memory), Episodes(path)
    starts = ours.windows(3, frame_skip=2)[::-1]
    assert np.array_equal(theirs.windows(3, frame_skip=2)[::-1], starts)
    mine = ours.batch(starts, 3, frame_skip=2)
    other = theirs.batch(starts, 3, frame_skip=2, columns=("pixels", "action", "proprio"))
    assert set(theirs.batch(starts, 1)) == {"pixels", "action"}
    assert other["proprio"].dtype == np.float32
    assert np.array_equal(mine["state"], other["proprio"])
    assert all(np.array_equal(mine[name], other[name]) for name in ("pixels", "action"))
    assert theirs.batch(starts, 1)["action"].shape == (len(starts), 0, 2)
    for mine_statistic, other_statistic in zip(
        ours.action_statistics(2), theirs.action_statistics(2), strict=True
    ):
        assert np.array_equal(mine_statistic, other_statistic)


@pytest.mark.parametrize("frame_skip", [1, 3])
def test_action_statistics_are_those_of_all_batches(path: Path, frame_skip: int) -> None:
    episodes = Episodes(path)
    mean, std = episodes.action_statistics(frame_skip)
    blocks = episodes.batch(episodes.windows(2, frame_skip=frame_skip), 2, frame_skip=frame_skip)["action"][
        :, 0
    ]
    assert mean.shape == std.shape == (2 * frame_skip,)
    np.testing.assert_allclose(mean, blocks.astype(np.float64).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(std, blocks.astype(np.float64).std(axis=0), rtol=1e-6)


@quick
@given(validation=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_split_shares_out_whole_episodes(path: Path, validation: float, seed: int) -> None:
    episodes = Episodes(path)
    train, held_out = episodes.split(validation, seed)
    assert len(train) >= 1
    assert len(held_out) >= 1
    assert sorted([*train.offsets, *held_out.offsets]) == episodes.offsets.tolist()
    assert np.array_equal(held_out.offsets, episodes.split(validation, seed)[1].offsets)
    assert sorted([*train.windows(2), *held_out.windows(2)]) == episodes.windows(2).tolist()
    for start in held_out.windows(2)[:1]:
        with pytest.raises(ValueError, match="starts: no window"):
            train.batch([start], 2)


def test_split_gives_the_share_asked_for(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "many.h5") as writer:
        for number in range(40):
            writer.append(**make_episode(number, 2))
    train, held_out = Episodes(tmp_path / "many.h5").split(0.1)
    assert (len(train), len(held_out)) == (36, 4)
    other = Episodes(tmp_path / "many.h5").split(0.1, seed=1)[1]
    assert not np.array_equal(held_out.offsets, other.offsets)


def test_bad_arguments_are_refused_by_name(path: Path) -> None:
    episodes = Episodes(path)
    for call, message in (
        (lambda: Episodes(path, in_memory="yes"), "in_memory: expected True, False or 'auto', got 'yes'"),
        (lambda: episodes.windows(0), "length: expected at least 1 frame, got 0"),
        (lambda: episodes.windows(1, frame_skip=0), "frame_skip: expected at least 1, got 0"),
        (lambda: episodes.batch([0.5], 1), r"starts: expected integers \[b\], got float64 \[1\]"),
        (lambda: episodes.batch([[0]], 1), r"starts: expected integers \[b\], got int64 \[1, 1\]"),
        (lambda: episodes.batch([0, 3], 3), "starts: no window of 3 steps begins at row 3"),
        (lambda: episodes.batch([-1], 1), "starts: no window of 1 steps begins at row -1"),
        (lambda: episodes.batch([32], 1), "starts: no window of 1 steps begins at row 32"),
        (
            lambda: episodes.batch([0], 1, columns=["depth"]),
            r"columns: .* has no \['depth'\]; it has \['action'",
        ),
        (lambda: episodes.split(1.0), "validation: expected a share between 0 and 1, got 1.0"),
        (lambda: episodes.action_statistics(12), "frame_skip: .* no episode of more than 12 frames"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(FileNotFoundError, match="no such file"):
        Episodes(path.with_name("none.h5"))


def replace(name: str, values: object) -> object:
    """A change to a file: column `name` becomes `values`."""

    def change(file: h5py.File) -> None:
        del file[name]
        if values is not None:
            file[name] = values

    return change


def poison(name: str, row: int) -> object:
    """A change to a file: NaN in `row` of column `name`."""

    def change(file: h5py.File) -> None:
        file[name][row, 0] = np.nan

    return change


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("ep_len", None), "column 'ep_len' is missing"),
        (replace("ep_offset", None), "column 'ep_offset' is missing"),
        (replace("pixels", None), "column 'pixels' is missing; there are"),
        (replace("ep_len", np.zeros(6, np.int32)), "column 'ep_len': episode 0 has no steps"),
        (replace("ep_len", np.full(6, 7, np.int32)), "column 'ep_offset': episodes overlap"),
        (replace("ep_len", np.ones(6)), "column 'ep_len': expected integers"),
        (replace("ep_len", np.zeros(0, np.int32)), "expected as many, at least one, got 0 and 6"),
        (
            replace("ep_len", np.array([*LENGTHS[:-1], 200], np.int32)),
            "column 'action': expected 230 steps, got",
        ),
        (replace("pixels", np.zeros((32, 4, 6, 3))), "column 'pixels': expected uint8"),
        (replace("pixels", np.zeros((32, 4, 6, 1), np.uint8)), "column 'pixels': expected uint8"),
        (replace("pixels", np.zeros((31, 4, 6, 3), np.uint8)), "column 'pixels': expected 32 steps"),
        (replace("action", np.zeros(32, np.float32)), "column 'action': expected floats"),
        (replace("state", np.zeros((32, 3), np.int64)), "column 'state': expected floats"),
        (poison("action", 7), "column 'action': row 7 is not finite"),
        (poison("state", 4), "column 'state': row 4 is not finite"),
    ],
)
def test_damaged_files_are_refused_by_file_and_column(
    path: Path, tmp_path: Path, change, message: str, in_memory: bool
) -> None:
    damaged = tmp_path / "damaged.h5"
    damaged.write_bytes(path.read_bytes())
    with h5py.File(damaged, "r+") as file:
        change(file)
    with pytest.raises(ValueError, match=f"damaged.h5.*{message}"):
        Episodes(damaged, in_memory=in_memory)


@quick
@given(size=st.floats(0, 0.999))
def test_a_file_cut_short_is_refused(path: Path, size: float) -> None:
    content = path.read_bytes()
    short = path.with_name("short.h5")
    short.write_bytes(content[: int(size * len(content))])
    with pytest.raises(ValueError, match=r"short.h5: damaged, or not an HDF5 file"):
        Episodes(short)


def test_compressed_bytes_that_do_not_unpack_are_refused(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.h5"
    write_as_others_do(theirs, chunks=True, compression="gzip", fletcher32=True)
    with h5py.File(theirs, "r") as file:
        chunk = file["pixels"].id.get_chunk_info(0)
    content = bytearray(theirs.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    theirs.write_bytes(content)
    with pytest.raises(ValueError, match=r"theirs.h5: column 'pixels' is damaged"):
        Episodes(theirs, in_memory=True)
    with pytest.raises(ValueError, match=r"theirs.h5: column 'pixels' is damaged"):
        Episodes(theirs, in_memory=False).batch([0], 1)


def test_the_writer_fills_in_the_last_action(tmp_path: Path) -> None:
    episode = make_episode(0, 4)
    with EpisodeWriter(tmp_path / "new" / "a.h5") as writer:
        writer.append(**(episode | {"action": episode["action"][:-1].astype(np.float64)}))
    with h5py.File(tmp_path / "new" / "a.h5") as file:
        assert np.array_equal(file["action"][:], episode["action"])
        assert file["action"].dtype == np.float32


def test_the_writer_leaves_nothing_behind_after_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.h5"
    target.write_text("what was there")

    def stop() -> None:
        with EpisodeWriter(target) as writer:
            writer.append(**make_episode(0, 4))
            raise KeyboardInterrupt

    def fill_the_disk() -> None:
        with EpisodeWriter(target) as writer:
            writer.append(**make_episode(0, 4))

            def full(*_: int) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(hdf5.os, "posix_fallocate", full, raising=False)

    for attempt, error in ((stop, KeyboardInterrupt), (fill_the_disk, OSError)):
        with pytest.raises(error):
            attempt()
        assert [item.name for item in tmp_path.iterdir()] == ["a.h5"]
        assert target.read_text() == "what was there"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pixels": None}, r"append: missing \['pixels'\]"),
        ({"ep_len": [1]}, r"append: \['ep_len'\] are written by the writer itself"),
        ({"pixels": np.zeros((4, 4, 6, 3))}, "pixels: expected uint8"),
        ({"pixels": np.zeros((0, 4, 6, 3), np.uint8)}, "pixels: expected uint8"),
        ({"action": np.zeros((2, 2))}, "action: expected 4 rows, as pixels, got 2"),
        ({"action": np.zeros((4, 2), int)}, "action: expected floats"),
        ({"action": np.zeros((4, 3))}, "append: expected the first episode's columns"),
        ({"state": np.zeros((5, 3))}, "state: expected 4 rows, as pixels, got 5"),
        ({"state": np.full((4, 3), np.inf)}, "state: row 0 is not finite"),
        ({"state": ["a", "b", "c", "d"]}, "state: expected numbers"),
        ({"reward": np.zeros(4)}, "append: expected the first episode's columns"),
    ],
)
def test_the_writer_refuses_bad_episodes(tmp_path: Path, change: dict, message: str) -> None:
    second = {name: value for name, value in (make_episode(1, 4) | change).items() if value is not None}
    with EpisodeWriter(tmp_path / "a.h5") as writer:
        writer.append(**make_episode(0, 3))
        with pytest.raises(ValueError, match=message):
            writer.append(**second)
    assert len(Episodes(tmp_path / "a.h5")) == 1


def test_a_file_without_episodes_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no episode was appended"), EpisodeWriter(tmp_path / "a.h5"):
        pass
    assert not list(tmp_path.iterdir())
