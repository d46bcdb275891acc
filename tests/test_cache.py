"""The cache of decoded frames, and batches made ahead of time."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
from recordings import LENGTHS, actions, pictures, write_video

from fastwm.data import Episodes, EpisodeWriter, cache, cached, prefetch


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder of videos with actions."""
    pytest.importorskip("av")
    for number, length in enumerate(LENGTHS):
        write_video(tmp_path / "clips" / f"{number}.mp4", pictures(number, length))
        np.save(tmp_path / "clips" / f"{number}.npy", actions(number, length))
    return tmp_path / "clips"


@pytest.mark.parametrize("workers", [1, 3])
def test_the_cache_holds_what_decoding_gives(videos: Path, tmp_path: Path, workers: int) -> None:
    made = cached(videos, tmp_path / "cache", image_size=16, workers=workers)
    assert made.path.parent == tmp_path / "cache"
    assert (made.format, made.attributes["format"], made.fps) == ("HDF5", "videos", 10)
    decoded = Episodes(videos, image_size=16)
    assert made.lengths.tolist() == decoded.lengths.tolist()
    starts = decoded.windows(3)
    mine, theirs = made.batch(starts, 3), decoded.batch(starts, 3)
    assert set(mine) == set(theirs) == {"pixels", "action"}
    assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_a_cache_is_used_again_until_its_source_changes(videos: Path, tmp_path: Path) -> None:
    first = cached(videos, tmp_path / "cache", image_size=16).path
    written = first.stat().st_mtime_ns
    assert cached(videos, tmp_path / "cache", image_size=16).path == first
    assert first.stat().st_mtime_ns == written
    others = {
        cached(videos, tmp_path / "cache", image_size=8).path,
        cached(videos, tmp_path / "cache").path,
    }
    os.utime(videos / "0.mp4", ns=(1, 1))
    others.add(cached(videos, tmp_path / "cache", image_size=16).path)
    assert len(others | {first}) == 4
    assert {item.suffix for item in (tmp_path / "cache").iterdir()} == {".h5", ".lock"}


@pytest.mark.parametrize("damaged", [None, "{", '[["a"]]', 3])
def test_a_file_that_is_no_cache_is_named(videos: Path, tmp_path: Path, damaged: object) -> None:
    made = cached(videos, tmp_path, image_size=16).path
    with h5py.File(made, "r+") as file:
        del file.attrs["damaged"]
        if damaged is not None:
            file.attrs["damaged"] = damaged
    with pytest.raises(ValueError, match=r"\.h5: damaged, or no cache of decoded frames"):
        cached(videos, tmp_path, image_size=16)


def test_nothing_half_written_keeps_the_name(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.hdf5, "write_rows", fail)
    with pytest.raises(OSError, match="No space left"):
        cached(videos, tmp_path / "cache")
    assert {item.suffix for item in (tmp_path / "cache").iterdir()} == {".lock"}
    with pytest.raises(FileNotFoundError, match="none: no such file"):
        cached(tmp_path / "none", tmp_path / "cache")


def test_damage_inside_a_video_is_left_out_of_the_cache(videos: Path, tmp_path: Path) -> None:
    content = bytearray((videos / "1.mp4").read_bytes())
    data = content.index(b"mdat") + 700  # beyond the encoder's own text
    content[data : data + 400] = b"\xff" * 400
    (videos / "1.mp4").write_bytes(content)
    with pytest.raises(ValueError, match=r"1\.mp4: damaged"):
        cached(videos, tmp_path / "cache")
    made = cached(videos, tmp_path / "cache", skip_damaged=True)
    assert made.lengths.tolist() == [n for place, n in enumerate(LENGTHS) if place != 1]
    assert [damage.episode for damage in made.damaged] == ["1.mp4"]
    decoded = Episodes(videos)
    assert np.array_equal(
        made.batch(made.offsets, 1)["pixels"], decoded.batch(np.delete(decoded.offsets, 1), 1)["pixels"]
    )
    again = cached(videos, tmp_path / "cache", skip_damaged=True)
    assert (again.path, again.damaged) == (made.path, made.damaged)


def test_an_episode_may_have_no_actions(tmp_path: Path) -> None:
    with EpisodeWriter(tmp_path / "a.h5") as writer:
        writer.append(pixels=pictures(0, 4))
    episodes = Episodes(tmp_path / "a.h5")
    assert not episodes.has_actions
    assert set(episodes.batch([0], 2)) == {"pixels"}


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_prefetched_batches_come_in_order(workers: int) -> None:
    seen: list[int] = []
    inside = threading.Lock()

    def load(item: int) -> int:
        with inside:
            seen.append(item)
        return item**2

    made = prefetch(load, range(20), workers=workers, ahead=3)
    assert not seen
    assert next(made) == 0
    assert [next(made) for _ in range(9)] == [n**2 for n in range(1, 10)]
    made.close()  # type: ignore[attr-defined]
    assert max(seen) <= 9 + 3
    assert sorted(seen) == list(range(len(seen)))


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_where_its_batch_would(workers: int) -> None:
    made = prefetch(lambda n: 1 // (n - 3), range(6), workers=workers)
    assert [next(made) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(made)
    with pytest.raises(ValueError, match="workers: expected at least 0, got -1"):
        prefetch(abs, [1], workers=-1)
