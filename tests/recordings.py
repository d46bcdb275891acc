"""Data sets in the formats of others, written with their own libraries: videos, LeRobot version 3, Lance."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

LENGTHS = (7, 12, 1, 9, 5)
HEIGHT, WIDTH = 24, 32
CAMERAS = ("observation.images.top", "observation.images.wrist")


def pictures(number: int, length: int, shade: int = 0) -> np.ndarray:
    """Frames uint8 [length, 24, 32, 3] that tell their episode (green) and step (red, and a bar)."""
    frames = np.zeros((length, HEIGHT, WIDTH, 3), np.uint8)
    step = np.arange(length)
    frames[..., 0] = (20 * step)[:, None, None]
    frames[..., 1] = 40 * number
    frames[..., 2] = shade
    for t in step:
        frames[t, 8:16, : 2 * (t + 1)] = 255
    return frames


def actions(number: int, length: int) -> np.ndarray:
    """Actions float32 [length, 2] that tell their episode and step."""
    return np.stack([100 * number + np.arange(length), -np.arange(length)], axis=1).astype(np.float32)


def write_video(
    path: Path, frames: np.ndarray, *, fps: int = 10, codec: str | None = None, gap: int = 4, **options: str
) -> None:
    """`frames` as a video, a keyframe every `gap` frames."""
    import av

    codec = codec or {".webm": "libvpx-vp9", ".gif": "gif"}.get(path.suffix, "libx264")
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.gop_size = gap
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def decode(path: Path) -> np.ndarray:
    """All frames of a video, from first to last."""
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def write_lerobot(
    path: Path, *, files: int = 2, row_group: int = 6, images: bool = False, **options: str
) -> None:
    """Episodes of `LENGTHS` as a LeRobot data set of two cameras, shared out over `files` files of either kind."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features: dict = {
        "action": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
        "observation.state": {"dtype": "float32", "shape": [3], "names": None},
        "next.done": {"dtype": "bool", "shape": [1], "names": None},
        "next.reward": {"dtype": "float32", "shape": [1], "names": None},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
        **{
            name: {"dtype": "int64", "shape": [1], "names": None}
            for name in ("frame_index", "episode_index", "index", "task_index")
        },
    }
    for camera in CAMERAS:
        kind, shape = ("image", [HEIGHT, WIDTH, 3]) if images else ("video", [3, HEIGHT, WIDTH])
        features[camera] = {"dtype": kind, "shape": shape, "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": "v3.0", "robot_type": "made up", "total_episodes": len(LENGTHS), "total_frames": sum(LENGTHS),
        "fps": 10, "features": features, "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    }  # fmt: skip
    (path / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    (path / "data" / "chunk-000").mkdir(parents=True)
    (path / "meta" / "info.json").write_text(json.dumps(info))

    episodes: list[dict] = []
    for file, numbers in enumerate(np.array_split(np.arange(len(LENGTHS)), files)):
        rows: list[dict] = []
        begun, frames = 0, {camera: [] for camera in CAMERAS}
        for number in map(int, numbers):
            length, offset = LENGTHS[number], sum(LENGTHS[:number])
            for camera in CAMERAS:
                frames[camera].append(pictures(number, length, 200 * CAMERAS.index(camera)))
            for t in range(length):
                row = {
                    "action": actions(number, length)[t].tolist(), "observation.state": [float(number), float(t), 0.5],
                    "next.done": t == length - 1, "next.reward": number + 10.0 * t, "timestamp": t / 10,
                    "frame_index": t, "episode_index": number, "index": offset + t, "task_index": 0,
                }  # fmt: skip
                if images:
                    row |= {camera: {"bytes": png(frames[camera][-1][t]), "path": None} for camera in CAMERAS}
                rows.append(row)
            episode = {
                "episode_index": number, "length": length, "tasks": ["go"], "dataset_from_index": offset,
                "dataset_to_index": offset + length, "data/chunk_index": 0, "data/file_index": file,
            }  # fmt: skip
            for camera in () if images else CAMERAS:
                at = f"videos/{camera}"
                episode |= {f"{at}/chunk_index": 0, f"{at}/file_index": file}
                episode |= {f"{at}/from_timestamp": begun / 10, f"{at}/to_timestamp": (begun + length) / 10}
            begun += length
            episodes.append(episode)
        pq.write_table(
            pa.Table.from_pylist(rows),
            path / f"data/chunk-000/file-{file:03d}.parquet",
            row_group_size=row_group,
        )
        for camera in () if images else CAMERAS:
            write_video(
                path / f"videos/{camera}/chunk-000/file-{file:03d}.mp4",
                np.concatenate(frames[camera]),
                **options,
            )
    pq.write_table(pa.Table.from_pylist(episodes), path / "meta/episodes/chunk-000/file-000.parquet")


def png(frame: np.ndarray) -> bytes:
    """`frame` as a PNG file."""
    content = io.BytesIO()
    Image.fromarray(frame).save(content, "PNG")
    return content.getvalue()


def write_lance(path: Path, **change: list) -> None:
    """Episodes of `LENGTHS` as stable-worldmodel lays a table out, but for PNG instead of JPEG; `change` replaces columns."""
    import lance
    import pyarrow as pa

    flat = np.concatenate([actions(number, length) for number, length in enumerate(LENGTHS)])
    frames = [png(frame) for number, length in enumerate(LENGTHS) for frame in pictures(number, length)]
    columns = {
        "episode_idx": pa.array(np.repeat(np.arange(len(LENGTHS)), LENGTHS), pa.int32()),
        "step_idx": pa.array(np.concatenate([np.arange(length) for length in LENGTHS]), pa.int32()),
        "pixels": pa.array(frames, pa.binary()),
        "action": pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1), pa.float32()), 2),
        "task": pa.array(["go"] * len(flat)),
    } | change  # fmt: skip
    lance.write_dataset(pa.table(columns), str(path), max_rows_per_file=10)
