"""Collection: what it writes, and that neither kills nor threads change a byte of it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastwm.data import Episodes, collect, collection, hdf5
from fastwm.envs import WORLDS, trajectories, world

EPISODES, LENGTH = 90, 11
SMALL_PARTS = 64  # frames: 18 parts of 5 episodes


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few MB made of many parts."""
    monkeypatch.setattr(collection, "FRAMES_PER_PART", SMALL_PARTS)


def run(path: Path, **changes: object) -> Path:
    """The collection that these tests repeat."""
    options = {"episodes": EPISODES, "length": LENGTH, "seed": 7, "progress": False} | changes
    return collect(str(options.pop("world_name", "two-room")), path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(WORLDS))
def test_the_file_holds_what_the_world_did(tmp_path: Path, name: str) -> None:
    space = world(name)
    assert run(tmp_path / "new" / "a.h5", world_name=name) == tmp_path / "new" / "a.h5"
    episodes = Episodes(tmp_path / "new" / "a.h5")
    assert episodes.lengths.tolist() == [LENGTH] * EPISODES
    assert episodes.attributes["world"] == name
    assert episodes.attributes["seed"] == 7
    batch = episodes.batch(episodes.offsets, LENGTH)
    assert np.array_equal(
        batch["pixels"].reshape(-1, 64, 64, 3), space.render(batch["state"].reshape(-1, space.state_dim))
    )
    for t in range(LENGTH - 1):
        assert np.array_equal(
            batch["state"][:, t + 1], space.step(batch["state"][:, t], batch["action"][:, t])
        )
    assert len(np.unique(batch["state"][:, 0], axis=0)) == EPISODES
    assert not episodes._columns["action"][LENGTH - 1 :: LENGTH].any()


def test_policies_differ_as_they_say(tmp_path: Path) -> None:
    noise = {}
    for policy in ("expert", "random", "mix"):
        episodes = Episodes(run(tmp_path / f"{policy}.h5", policy=policy, world_name="push"))
        batch = episodes.batch(episodes.windows(3), 3)
        noise[policy] = (batch["action"][:, 1] == batch["action"][:, 0]).all(axis=1).mean()
    assert noise["expert"] < 0.3 < noise["random"]
    assert noise["mix"] < noise["random"]
    states, _ = trajectories(world("push"), np.random.default_rng(0), 50, LENGTH, "expert")
    assert np.isfinite(states).all()


def test_threads_do_not_change_a_byte(tmp_path: Path) -> None:
    one, three = run(tmp_path / "a.h5"), run(tmp_path / "b.h5", workers=3)
    assert one.read_bytes() == three.read_bytes()
    assert one.read_bytes() != run(tmp_path / "c.h5", seed=8).read_bytes()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.h5", "b.h5", "c.h5"]


@pytest.mark.parametrize("episodes", [1, 4, 5, 6, 89])
def test_a_longer_collection_begins_with_a_shorter_one(tmp_path: Path, episodes: int) -> None:
    short, long = Episodes(run(tmp_path / "a.h5", episodes=episodes)), Episodes(run(tmp_path / "b.h5"))
    assert len(short) == episodes
    first, same = short.batch(short.offsets, LENGTH), long.batch(short.offsets, LENGTH)
    assert all(np.array_equal(first[name], same[name]) for name in first)


SLOW_COLLECTION = f"""
import sys, time
from fastwm.data import collection, hdf5
collection.FRAMES_PER_PART = {SMALL_PARTS}
write = hdf5.write_rows
def slowly(*arguments):
    write(*arguments)
    time.sleep(0.005)
hdf5.write_rows = slowly
collection.collect(
    "two-room", sys.argv[1], episodes={EPISODES}, length={LENGTH}, seed=7, workers=2, progress=False
)
"""


def test_a_killed_collection_goes_on_and_ends_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(tmp_path / "whole.h5")
    path, ticks = tmp_path / "killed.h5", tmp_path / "killed.h5.parts"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    for least in (3, 8):
        process = subprocess.Popen([sys.executable, "-c", SLOW_COLLECTION, str(path)], env=environment)
        deadline = time.monotonic() + 60
        while not (ticks.exists() and sum(ticks.read_bytes()) >= least):
            assert process.poll() is None, "the collection ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not path.exists()
        assert (tmp_path / "killed.h5.partial").exists()

    done, made = sum(ticks.read_bytes()), []
    make = collection._make_part
    monkeypatch.setattr(
        collection, "_make_part", lambda *arguments: (made.append(arguments[-1]), make(*arguments))
    )
    assert done >= 8
    run(path)
    assert len(made) == 18 - done
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(item.name for item in tmp_path.iterdir()) == ["killed.h5", "whole.h5"]


def test_an_unticked_part_is_made_again_whatever_it_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, path = run(tmp_path / "whole.h5"), tmp_path / "a.h5"
    make = collection._make_part

    def fail(request, file, starts, ticked, part) -> None:
        if part == 5:
            garbage = np.full((40, 64, 64, 3), 99, np.uint8)
            hdf5.write_rows(file, starts["pixels"], request.columns["pixels"], 275, garbage)
            raise KeyboardInterrupt
        make(request, file, starts, ticked, part)

    with monkeypatch.context() as patch:
        patch.setattr(collection, "_make_part", fail)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    assert not path.exists()
    run(path)
    assert path.read_bytes() == whole.read_bytes()


def test_a_finished_collection_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run(tmp_path / "a.h5")
    monkeypatch.setattr(collection, "_make_part", None)
    assert run(path) == path
    assert [item.name for item in tmp_path.iterdir()] == ["a.h5"]
    with pytest.raises(FileExistsError, match=r"a.h5 exists and is something else \(seed 7, not 8\)"):
        run(path, seed=8)
    path.write_text("notes")
    with pytest.raises(FileExistsError, match=r"a.h5 exists and is no episodes file"):
        run(path)
    with pytest.raises(FileExistsError, match="exists and is no episodes file"):
        run(tmp_path)


def test_an_unfinished_collection_of_something_else_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a.h5"
    with monkeypatch.context() as patch:
        patch.setattr(collection, "_make_part", stop)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    before = (tmp_path / "a.h5.partial").read_bytes()
    with pytest.raises(
        ValueError, match=r"unfinished collection with other arguments \(episodes 90, not 3, policy"
    ):
        run(path, episodes=3, policy="expert")
    assert (tmp_path / "a.h5.partial").read_bytes() == before


def test_only_one_process_collects_to_a_path(tmp_path: Path) -> None:
    with (tmp_path / "a.h5.parts").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match=r"another process is collecting to .*a.h5"):
            run(tmp_path / "a.h5")


def test_a_full_disk_is_reported_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hdf5.os, "posix_fallocate", full, raising=False)
    monkeypatch.setattr(collection, "_make_part", None)
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"world_name": "maze"},
            ValueError,
            "world: expected one of two-room, two-room-steps, push, pendulum, pusht, reacher, got 'maze'",
        ),
        ({"episodes": 0}, ValueError, "episodes: expected at least 1, got 0"),
        ({"length": 1}, ValueError, "length: expected at least 2, got 1"),
        ({"length": 2.5}, TypeError, "length: expected an integer, got 2.5"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ({"seed": 2**63}, ValueError, r"seed: expected less than 2\*\*63"),
        ({"workers": 0}, ValueError, "workers: expected at least 1, got 0"),
        ({"workers": True}, TypeError, "workers: expected an integer, got True"),
        ({"policy": "best"}, ValueError, "policy: expected one of mix, expert, random, got 'best'"),
    ],
)
def test_bad_arguments_are_refused_by_name(tmp_path: Path, changes: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        run(tmp_path / "a.h5", **changes)
    assert not list(tmp_path.iterdir())


def test_progress_counts_frames(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path / "quiet.h5")
    assert not capfd.readouterr().err
    run(tmp_path / "a.h5", progress=True)
    assert "collect two-room: 100%" in capfd.readouterr().err
