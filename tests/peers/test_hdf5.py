"""Episodes on disk, both ways: stable-worldmodel's reader on our file, our reader on its writer's file."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip(
    "stable_worldmodel", reason="needs the `peers` extra: make test-peers", exc_type=ImportError
)

import numpy as np
from stable_worldmodel.data.formats.hdf5 import HDF5Dataset, HDF5Writer

from fastwm.data import Episodes, collect

pytestmark = pytest.mark.peers

SKIP, FRAMES = 2, 3


def test_their_reader_on_our_file(tmp_path: Path) -> None:
    path = collect("two-room", tmp_path / "episodes.h5", episodes=3, length=9, progress=False)
    ours = Episodes(path)
    theirs = HDF5Dataset(path=path, frameskip=SKIP, num_steps=FRAMES)
    assert set(theirs.column_names) == set(ours.columns)
    np.testing.assert_array_equal(theirs.lengths, ours.lengths)
    np.testing.assert_array_equal(theirs.offsets, ours.offsets)
    assert len(theirs) > 0
    for index, (episode, start) in enumerate(theirs.clip_indices):
        same_clip(theirs[index], ours.batch([ours.offsets[episode] + start], FRAMES, frame_skip=SKIP))


def test_our_reader_on_their_file(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    path = tmp_path / "theirs.h5"
    with HDF5Writer(path) as writer:
        for length in (7, 4, 9):
            writer.write_episode(
                {
                    "pixels": list(random.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8)),
                    "action": list(random.standard_normal((length, 2), dtype=np.float32)),
                    "state": list(random.standard_normal((length, 4), dtype=np.float32)),
                }
            )
    ours, theirs = Episodes(path), HDF5Dataset(path=path, frameskip=SKIP, num_steps=FRAMES)
    assert ours.lengths.tolist() == [7, 4, 9]
    assert len(theirs) > 0
    for index, (episode, start) in enumerate(theirs.clip_indices):
        same_clip(theirs[index], ours.batch([ours.offsets[episode] + start], FRAMES, frame_skip=SKIP))


def same_clip(theirs: dict, ours: dict) -> None:
    """Their clip holds one block of actions more, the one after the last frame, and its pixels are channels-first."""
    np.testing.assert_array_equal(theirs["pixels"].permute(0, 2, 3, 1).numpy(), ours["pixels"][0])
    np.testing.assert_array_equal(theirs["action"][:-1].numpy(), ours["action"][0])
    np.testing.assert_array_equal(theirs["state"].numpy(), ours["state"][0])
