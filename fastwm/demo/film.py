"""The demo's episodes as an animated picture, for places where no script runs."""

from __future__ import annotations

import base64
import io
import os
from typing import Any

from PIL import Image, ImageDraw

from fastwm.models.storage import write_atomically

EPISODES = 4  # side by side
SCALE = 3  # of the world's pixels
FINE = 4 * SCALE  # what is drawn at, for smooth lines
GAP = 8
MILLISECONDS = 330  # per decision
REST = 5  # decisions for which the end stands still
HUES = {"agent": (200, 33, 27), "puck": (47, 79, 208)}


def write_film(path: str | os.PathLike[str], playback: dict[str, Any]) -> None:
    """Write the first episodes of `playback` as a GIF: what the agent sees, the goal shining through, the imagined paths."""
    episodes = playback["episodes"][:EPISODES]
    tiles = [_tiles(episode, playback) for episode in episodes]
    length = max(map(len, tiles))
    edge = playback["size"] * SCALE
    pictures = []
    for frame in range(length):
        picture = Image.new("RGB", (len(tiles) * (edge + GAP) - GAP, edge), "white")
        for place, tile in enumerate(tiles):
            picture.paste(tile[min(frame, len(tile) - 1)], (place * (edge + GAP), 0))
        pictures.append(picture.quantize(96, dither=Image.Dither.NONE))
    file = io.BytesIO()
    durations = [MILLISECONDS] * (length - 1) + [REST * MILLISECONDS]
    pictures[0].save(
        file, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True
    )
    write_atomically(path, file.getvalue())


def _tiles(episode: dict[str, Any], playback: dict[str, Any]) -> list[Image.Image]:
    """One picture for each moment of an episode."""
    size = playback["size"]
    strip, goal = _decode(episode["frames"]), _decode(episode["goal"])
    tiles = []
    for moment in range(strip.height // size):
        seen = Image.blend(strip.crop((0, moment * size, size, (moment + 1) * size)), goal, 0.2)
        tile = seen.resize((size * FINE, size * FINE), Image.Resampling.NEAREST)
        if moment < len(episode["paths"]):
            arrival = episode["arrivals"][moment]
            for body, points in zip(playback["bodies"], episode["paths"][moment], strict=True):
                _draw_path(ImageDraw.Draw(tile), points[: arrival + 1], HUES.get(body, (60, 60, 60)))
        tiles.append(tile.resize((size * SCALE, size * SCALE), Image.Resampling.BOX))
    return tiles


def _draw_path(pen: ImageDraw.ImageDraw, points: list[list[float]], hue: tuple[int, int, int]) -> None:
    """Up to the plan's closest point to the goal, which gets a ring. Pixels' centres are at integers."""
    line = [((x + 0.5) * FINE, (y + 0.5) * FINE) for x, y in points]
    pen.line(line, "white", round(1.6 * FINE), joint="curve")
    pen.line(line, hue, round(0.8 * FINE), joint="curve")
    x, y = line[-1]
    radius = 1.6 * FINE
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), "white", hue, round(0.8 * FINE))


def _decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB")
