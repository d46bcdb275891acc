"""What is in a data set: `describe` in numbers, `lines` in words, `contact_sheet` as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .episodes import Episodes
from .readers import Damage, open_reader
from .resize import resize

MARGIN, TEXT = 4, 14  # pixels
WHITE, GREY = (255, 255, 255), (90, 90, 90)
SHOWN = 8  # of long lists, in words


def open_any_camera(
    path: str, camera: str | None, skip_damaged: bool, image_size: int | None = None
) -> Episodes:
    """The episodes of `path`, through its first camera where there are several and `camera` names none."""
    if camera is None:
        reader = open_reader(path, image_size=image_size, skip_damaged=skip_damaged)
        reader.close()
        camera = "pixels" if "pixels" in reader.cameras else next(iter(reader.cameras), None)
    return Episodes(path, camera=camera, image_size=image_size, skip_damaged=skip_damaged)


def describe(episodes: Episodes) -> dict[str, Any]:
    """Format, sizes, columns, actions and damage of `episodes`, as JSON takes it.

    `action` holds least, most, mean and standard deviation [action_dim] over the actions that lead on; None without
    actions, or where no episode has two frames.
    """
    lengths = episodes.lengths
    return {
        "path": str(episodes.path),
        "format": episodes.format,
        "episodes": len(episodes),
        "frames": episodes.frames,
        "length": {
            "least": int(lengths.min()),
            "median": float(np.median(lengths)),
            "most": int(lengths.max()),
        },
        "fps": episodes.fps,
        "columns": {
            name: {"dtype": str(column.dtype), "shape": list(column.shape)}
            for name, column in sorted(episodes.shapes.items())
        },
        "cameras": list(episodes.cameras),
        "pixels": episodes.camera,
        "action": _actions(episodes),
        "attributes": {name: _plain(value) for name, value in episodes.attributes.items()},
        "damaged": [
            {"file": str(damage.file), "episode": damage.episode, "reason": damage.reason}
            for damage in episodes.damaged
        ],
    }


def lines(found: dict[str, Any]) -> list[str]:
    """`describe`'s answer for people, one thing a line."""
    length = found["length"]
    rows = [
        ("format", found["format"]),
        ("episodes", f"{found['episodes']}, of {_span(length)} frames"),
        ("frames", f"{found['frames']}" + (f" at {found['fps']:g} per second" if found["fps"] else "")),
    ]
    if len(found["cameras"]) > 1:
        rows.append(("cameras", f"{', '.join(found['cameras'])}; pixels are {found['pixels']}"))
    for name, column in found["columns"].items():
        rows.append(("column", f"{name}  {column['dtype']} {column['shape']}"))
    if found["action"] is None:
        rows.append(("actions", "none"))
    else:
        for place, numbers in enumerate(zip(*found["action"].values(), strict=True)):
            low, high, mean, std = numbers
            rows.append(("action", f"{place}: {low:+.3g} to {high:+.3g}, mean {mean:+.3g}, std {std:.3g}"))
    rows += [("attribute", f"{name}: {value}") for name, value in found["attributes"].items()]
    damaged = found["damaged"]
    rows += [("damaged", f"{d['file']}: {d['episode']}: {d['reason']}") for d in damaged[:SHOWN]]
    if len(damaged) > SHOWN:
        rows.append(("damaged", f"and {len(damaged) - SHOWN} more"))
    return [found["path"], *(f"  {name:<10} {text}" for name, text in rows)]


def check_frames(episodes: Episodes) -> list[Damage]:
    """The episodes with a frame that cannot be decoded; takes decoding everything, an episode at a time in memory."""
    damaged = []
    for number, (offset, length) in enumerate(zip(episodes.offsets, episodes.lengths, strict=True)):
        try:
            for name in ("pixels", *(name for name in episodes.cameras if name in episodes.columns)):
                episodes.rows(offset + np.arange(length), (name,))
        except ValueError as error:
            damaged.append(Damage(episodes.path, episodes.label(number), str(error)))
    return damaged


def contact_sheet(episodes: Episodes, *, rows: int = 8, frames: int = 8, size: int = 96) -> Image.Image:
    """A picture of at most `rows` episodes, spread over all of them; each a row of at most `frames` frames, from its
    first to its last, `size` pixels high.
    """
    for name, value in (("rows", rows), ("frames", frames), ("size", size)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    chosen = np.unique(np.linspace(0, len(episodes) - 1, min(rows, len(episodes))).round().astype(int))
    height, width = episodes.shapes["pixels"].shape[:2]
    scaled = (size, max(1, round(size * width / height)))
    across, down = scaled[1] + MARGIN, size + TEXT + MARGIN
    sheet = Image.new("RGB", (frames * across + MARGIN, len(chosen) * down + MARGIN), WHITE)
    draw = ImageDraw.Draw(sheet)
    for row, number in enumerate(chosen.tolist()):
        top, length = MARGIN + row * down, int(episodes.lengths[number])
        steps = np.unique(np.linspace(0, length - 1, min(frames, length)).round().astype(int))
        draw.text((MARGIN, top), f"{episodes.label(number)}, {length} frames", GREY)
        pictures = episodes.rows(episodes.offsets[number] + steps, ("pixels",))["pixels"]
        for place, picture in enumerate(pictures):
            sheet.paste(_stretched(picture, scaled), (MARGIN + place * across, top + TEXT))
    return sheet


def save_sheet(sheet: Image.Image, path: Path) -> None:
    """Write `sheet` as a PNG, whole or not at all."""
    from fastwm.models.storage import write_atomically

    content = io.BytesIO()
    sheet.save(content, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content.getvalue())


def _stretched(picture: NDArray[np.uint8], size: tuple[int, int]) -> Image.Image:
    """`picture` at `size`: pixels stay sharp where it grows by a whole factor."""
    factor = size[0] / picture.shape[0]
    if factor > 1 and factor == int(factor):
        return Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return Image.fromarray(resize(picture, size))


def _actions(episodes: Episodes) -> dict[str, list[float]] | None:
    starts = episodes.windows(2)
    if not episodes.has_actions or len(starts) == 0:
        return None
    actions = episodes.rows(starts, ("action",))["action"].astype(np.float64)
    numbers = actions.min(axis=0), actions.max(axis=0), actions.mean(axis=0), actions.std(axis=0)
    return {
        name: values.tolist() for name, values in zip(("least", "most", "mean", "std"), numbers, strict=True)
    }


def _span(length: dict[str, Any]) -> str:
    if length["least"] == length["most"]:
        return str(length["least"])
    return f"{length['least']} to {length['most']} (median {length['median']:g})"


def _plain(value: Any) -> Any:
    """`value` as JSON takes it."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
