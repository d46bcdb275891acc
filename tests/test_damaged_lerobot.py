"""Damaged LeRobot data sets: pictures, rows, the table of episodes and meta/info.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from damage import check, cut
from recordings import CAMERAS, LENGTHS, decode, write_lerobot

from fastwm.data import Episodes


def lerobot(path: Path, **options: object) -> Path:
    """A LeRobot data set, episodes 0 to 2 in its first files, 3 and 4 in the second ones."""
    pytest.importorskip("av")
    pytest.importorskip("pyarrow")
    write_lerobot(path / "set", **options)  # type: ignore[arg-type]
    return path / "set"


def test_a_lerobot_video_cut_short_keeps_what_comes_before(tmp_path: Path) -> None:
    path = lerobot(tmp_path, movflags="faststart")
    video = path / f"videos/{CAMERAS[1]}/chunk-000/file-000.mp4"
    frames = decode(video)
    cut(video, 0.93)
    message = r"file-000.mp4: episode \d: damaged: \d+ of its \d+ frames are missing"
    with pytest.raises(ValueError, match=message):
        Episodes(path, camera=CAMERAS[1])
    episodes = Episodes(path, camera=CAMERAS[1], skip_damaged=True)
    assert episodes.lengths.tolist()[0] == LENGTHS[0]
    assert episodes.lengths.tolist()[-2:] == list(LENGTHS[3:])
    assert {damage.file for damage in episodes.damaged} == {video}
    assert np.array_equal(episodes.batch([0], LENGTHS[0])["pixels"][0], frames[: LENGTHS[0]])


def test_a_lerobot_video_that_is_missing(tmp_path: Path) -> None:
    path = lerobot(tmp_path)
    (path / f"videos/{CAMERAS[0]}/chunk-000/file-001.mp4").unlink()
    check(path, "file-001.mp4: episode 3: no such file", [0, 1, 2], camera=CAMERAS[0])


def test_a_parquet_file_with_a_damaged_row_group(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = lerobot(tmp_path)
    file = path / "data/chunk-000/file-000.parquet"  # row groups of 6 rows; episode 0 has rows 0 to 6
    with pq.ParquetFile(file) as opened:
        column = opened.metadata.row_group(2).column(0)  # rows 12 to 17: of episode 1
        start = column.dictionary_page_offset or column.data_page_offset
    content = bytearray(file.read_bytes())
    content[start : start + 12] = b"\xff" * 12
    file.write_bytes(content)
    message = r"file-000.parquet: episode 1: 6 of its 12 rows are missing \(row group 2 is damaged"
    check(path, message, [0, 2, 3, 4], camera=CAMERAS[0])


def test_a_parquet_file_that_lacks_a_row_group(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path = lerobot(tmp_path)
    file = path / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 10), file, row_group_size=5)
    check(
        path,
        r"file-001.parquet: episode 4: 4 of its 5 rows are missing; skip_damaged",
        [0, 1, 2, 3],
        camera=CAMERAS[0],
    )
    cut(file, 0.5)
    check(
        path,
        "file-001.parquet: episode 3: .* rows are missing .damaged, or not a Parquet",
        [0, 1, 2],
        camera=CAMERAS[0],
    )


def test_lerobot_lengths_that_do_not_add_up(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = lerobot(tmp_path)
    file = path / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index("length")
    pq.write_table(table.set_column(place, "length", pa.array([7, 11, 1, 9, 5])), file)
    check(path, "episode 1: its length 11 and rows 7 to 19 do not add up", [0, 2, 3, 4], camera=CAMERAS[0])
    cut(file, 0.9)
    with pytest.raises(ValueError, match=r"file-000.parquet: damaged, or not a Parquet file"):
        Episodes(path, skip_damaged=True)


def change_table(name: str, values: list) -> Callable[[Path], None]:
    """Give the column `name` of the table of episodes other `values`; an empty list removes it."""

    def change(path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        file = path / "meta/episodes/chunk-000/file-000.parquet"
        table = pq.read_table(file)
        place = table.schema.get_field_index(name)
        changed = table.set_column(place, name, pa.array(values)) if values else table.remove_column(place)
        pq.write_table(changed, file)

    return change


def change_rows(
    name: str, change: Callable[[list], list], kind: str | None = None, file: Path | None = None
) -> Callable[[Path], None]:
    """Give the column `name` of the second file of numbers (episodes 3 and 4) other values."""

    def write(path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        where = file or path / "data/chunk-000/file-001.parquet"
        table = pq.read_table(where)
        values = pa.array(change(table.column(name).to_pylist()), pa.type_for_alias(kind) if kind else None)
        pq.write_table(
            table.set_column(table.schema.get_field_index(name), name, values), where, row_group_size=5
        )

    return write


def change_info(**entries: object) -> Callable[[Path], None]:
    """Give meta/info.json other `entries`; None removes one. Entries of features are told by their name."""

    def change(path: Path) -> None:
        file = path / "meta/info.json"
        info = json.loads(file.read_text())
        for name, value in entries.items():
            at = info["features"] if name in (*info["features"], "state") else info
            at[name] = value
            if value is None:
                del at[name]
        file.write_text(json.dumps(info))

    return change


def another_table(path: Path) -> None:
    """A second file of the table of episodes, with episode 4 and without the file that its rows are in."""
    import pyarrow.parquet as pq

    file = path / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(0, 4), file)
    pq.write_table(table.slice(4).drop_columns(["data/file_index"]), file.with_name("file-001.parquet"))


FROM, TO = (f"videos/{CAMERAS[0]}/{of}_timestamp" for of in ("from", "to"))


def both(*damages: Callable[[Path], None]) -> Callable[[Path], None]:
    """One damage after the other."""

    def change(path: Path) -> None:
        for damage in damages:
            damage(path)

    return change


@pytest.mark.parametrize(
    ("damage", "message", "kept"),
    [
        (change_table("length", [7, None, 1, 9, 5]), "episode 1: 'length': expected a whole number, got None", [0, 2, 3, 4]),
        (change_table("data/file_index", [0, 0, 0, 1, None]), "episode 4: 'data/file_index': expected a", [0, 1, 2, 3]),
        (change_table("dataset_from_index", [0, 7, None, 20, 29]), "episode 2: 'dataset_from_index': expected", [0, 1, 3, 4]),
        (change_table("episode_index", [0, 1, 2, None, 4]), "the episode in row 3: 'episode_index': exp", [0, 1, 2, 4]),
        (change_table(FROM, [0.0, None, 1.9, 0.0, 0.9]), "episode 1: '.*/from_timestamp': expected a num", [0, 2, 3, 4]),
        (change_table(FROM, [0.0, -9.0, 1.9, 0.0, 0.9]), "episode 1: its 1.2.* s of video are said to be -9", [0, 2, 3, 4]),
        (
            both(change_table(FROM, [0.0, -9.0, 1.9, 0.0, 0.9]), change_table(TO, [])),
            "mp4: episode 1: damaged: 12 of its 12 frames", [0, 2, 3, 4],
        ),
        (
            both(change_table(FROM, [0.0, 0.7, 1.9, 0.0, 1.2]), change_table(TO, [0.7, 1.9, 2.0, 0.9, 1.7])),
            "mp4: episode 4: damaged: 3 of its 5 frames", [0, 1, 2, 3],
        ),
        (
            both(change_table(FROM, [0.0, 0.7, 0.5, 0.0, 0.9]), change_table(TO, [])),
            "episode 0: it shares seconds of the video with episode 2", [1, 3, 4],
        ),
        (change_table("length", [10, 12, 1, 9, 5]), "episode 0: its length 10 and rows 0 to 7 do not", [1, 2, 3, 4]),
        (change_table("episode_index", [0, 1, 2, 3, 3]), "episode 3: its row 0 has episode_index 4, expected 3", [0, 1, 2, 3]),
        (
            both(change_table("length", [7, 12, 1, 7, 5]), change_table("dataset_to_index", [7, 19, 20, 27, 34])),
            "episode 3: its 0.700 s of video are said to be 0.000 to 0.900", [0, 1, 2, 4],
        ),
        (
            both(change_table("length", [7, 12, 1, 2**50, 5]), change_table("dataset_to_index", [7, 19, 20, 20 + 2**50, 34]),
                 change_info(total_frames=None)),
            "episode 4: its length 5 and rows 29 to 34 do not add up", None,
        ),
        (change_rows("index", lambda values: [n + 1 for n in values]), "episode 3: 1 of its 9 rows are missing", [0, 1, 2]),
        (
            change_rows("index", lambda values: [21, 20, *values[2:]]),
            "episode 3: its row 0 has frame_index 1, expected 0", [0, 1, 2, 4],
        ),
        (change_table("dataset_to_index", [7, 19, 20, 29, 10**15]), "episode 4: its length 5 and rows 29 to", [0, 1, 2, 3]),
        (another_table, "file-001.parquet: episode 4: 'data/file_index': expected a whole number", [0, 1, 2, 3]),
        (change_rows("index", lambda values: [*values[:-1], None]), "episode 4: 1 of its 5 rows .*got None", [0, 1, 2, 3]),
        (change_rows("index", lambda values: values, "double"), "column 'index': expected int64, got double", [0, 1, 2]),
        (change_rows("action", lambda values: [*values[:-1], [1.0]]), "episode 4: .*expected float32 .2., got", [0, 1, 2, 3]),
        (change_rows("action", lambda values: [[1.0] * 3, [1.0], *values[2:]]), "episode 3: 2 of its 9 rows", [0, 1, 2, 4]),
        (change_rows("action", lambda values: [None, *values[1:]]), "episode 3: 1 of its 9 rows .*got None", [0, 1, 2, 4]),
        (change_rows("action", lambda values: ["up"] * 14), "column 'action': row 0 .*expected float32", [0, 1, 2]),
        (change_rows("next.done", lambda values: [*values[:-1], None]), "episode 4: 1 of its 5 rows", [0, 1, 2, 3]),
    ],
)  # fmt: skip
def test_lerobot_tables_that_are_damaged(
    tmp_path: Path, damage: Callable[[Path], None], message: str, kept: list[int] | None
) -> None:
    path = lerobot(tmp_path)
    damage(path)
    if kept is None:
        with pytest.raises(ValueError, match=message):
            Episodes(path, camera=CAMERAS[0])
        return
    episodes = check(path, message, kept, camera=CAMERAS[0])
    states = episodes.batch(episodes.offsets, 1)["state"][:, 0]
    assert states.tolist() == [[number, 0, 0.5] for number in kept]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_table("data/chunk_index", []), r"file-000.parquet: columns \['data/chunk_index'\] are missing"),
        (change_table(FROM, []), "columns .*from_timestamp'. are missing"),
        (change_table("length", [7.0, 12.0, 1.0, 9.0, 5.0]), "episode 0: 'length': expected a whole number, got 7.0"),
        (change_info(fps=None), r"info.json: \['fps'\] are missing"),
        (change_info(fps="10"), "info.json: fps: expected a number above 0, got '10'"),
        (change_info(features=[]), "info.json: features: expected names and what they are"),
        (change_info(action={"shape": [2]}), "info.json: feature 'action': expected a dtype and a shape"),
        (change_info(action={"dtype": "words", "shape": [2]}), "feature 'action': dtype 'words' is none"),
        (change_info(action={"dtype": "float32", "shape": "2"}), "feature 'action': shape: expected sizes above 0"),
        (change_info(action={"dtype": "float32", "shape": [3]}), r"expected float32 \[3\], got \[0.0, "),
        (change_info(video_path=None), "info.json: video_path is missing, which 'observation.images.top' needs"),
        (change_info(data_path="{episode}"), "info.json: data_path: expected a pattern of chunk_index and file_index"),
        (change_info(total_frames=30), "episode 4: its rows 29 to 34 are none of the 30"),
        (change_info(fps=20), "episode 0: its 0.350 s of video are said to be 0.000 to 0.700"),
        (both(change_info(fps=20), change_table(TO, [])), "episode 0: damaged: 3 of its 7 frames are missing"),
        (change_info(fps=10**400), "info.json: fps: expected a number above 0"),
        (change_info(state={"dtype": "float32", "shape": [3]}), "'observation.state' is 'state' here, which there is"),
        (change_info(action={"dtype": "float32", "shape": [2**40]}), "feature 'action': shape: expected at most"),
        (change_info(data_path="{chunk_index[0]}"), "info.json: data_path: expected a pattern"),
        (lambda path: (path / "meta/info.json").write_text(100_000 * "["), "info.json: damaged"),
    ],
)  # fmt: skip
def test_lerobot_metadata_that_is_damaged(
    tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = lerobot(tmp_path)
    damage(path)
    with pytest.raises(ValueError, match=message):
        Episodes(path, camera=CAMERAS[0])


def test_lerobot_rows_without_pictures(tmp_path: Path) -> None:
    path = lerobot(tmp_path, images=True)
    change_rows(CAMERAS[0], lambda values: [None, *values[1:]])(path)
    episodes = Episodes(path, camera=CAMERAS[0])
    assert episodes.batch([21], 3)["pixels"].shape[1] == 3
    with pytest.raises(
        ValueError, match=r"file-001.parquet: column '.*top': row 20 is no whole picture: .*NoneType"
    ):
        episodes.batch([20], 3)


def test_lerobot_columns_that_there_are_twice(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = lerobot(tmp_path)
    file = path / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    pq.write_table(
        pa.table([*table.columns, table.column("action")], names=[*table.column_names, "action"]), file
    )
    check(path, "file-001.parquet: episode 3: 9 of its 9 rows .*action", [0, 1, 2], camera=CAMERAS[0])


def test_lerobot_size_is_that_of_a_picture_that_is_whole(tmp_path: Path) -> None:
    path = lerobot(tmp_path, images=True)
    file = path / "data/chunk-000/file-000.parquet"
    broken = lambda values: [{"bytes": b"no", "path": None}, *values[1:]]  # noqa: E731
    change_rows(CAMERAS[0], broken, file=file)(path)
    assert Episodes(path, camera=CAMERAS[0]).shapes["pixels"].shape == (24, 32, 3)


def test_a_video_whose_codec_is_not_known(tmp_path: Path) -> None:
    path = lerobot(tmp_path)
    video = path / f"videos/{CAMERAS[0]}/chunk-000/file-001.mp4"
    video.write_bytes(video.read_bytes().replace(b"avc1", b"xxxx"))
    check(path, "file-001.mp4: episode 3: damaged, or of a codec", [0, 1, 2], camera=CAMERAS[0])
