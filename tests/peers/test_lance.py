"""stable-worldmodel's Lance tables: what its writer wrote and its reader reads, ours reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastwm.data import Episodes

LENGTHS = (5, 9, 1, 4)

pytestmark = pytest.mark.peers


def test_a_table_of_their_writer_is_read_as_their_reader_reads_it(tmp_path: Path) -> None:
    formats = pytest.importorskip("stable_worldmodel.data.formats.lance", exc_type=ImportError)
    rng = np.random.default_rng(0)
    episodes = [
        {
            "pixels": list(rng.integers(0, 255, (length, 24, 32, 3), np.uint8)),
            "action": list(rng.standard_normal((length, 2)).astype(np.float32)),
            "proprio": list(rng.standard_normal((length, 4)).astype(np.float32)),
        }
        for length in LENGTHS
    ]
    with formats.LanceWriter(tmp_path / "set.lance") as writer:
        writer.write_episodes(episodes)
    ours = Episodes(tmp_path / "set.lance")
    assert ours.lengths.tolist() == list(LENGTHS)
    theirs = formats.LanceDataset(tmp_path / "set.lance", num_steps=3)
    starts = ours.windows(3)
    batch = ours.batch(starts, 3, columns=("pixels", "action", "proprio"))
    assert len(theirs) == len(starts) == 3 + 7 + 2
    for place in range(len(starts)):
        sample = theirs[place]
        pixels = sample["pixels"].numpy().transpose(0, 2, 3, 1).astype(int)
        assert np.abs(batch["pixels"][place].astype(int) - pixels).max() <= 2  # two decoders of JPEG
        assert np.array_equal(batch["proprio"][place], sample["proprio"].numpy())
        assert np.array_equal(batch["action"][place], sample["action"].numpy()[:2])
