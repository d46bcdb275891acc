"""A world small enough to learn in a second: a bright dot on a 16x16 picture, moved by the action."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fastwm.data import EpisodeWriter


def write_dots(
    path: Path,
    *,
    episodes: int = 40,
    length: int = 12,
    size: int = 16,
    seed: int = 0,
    with_state: bool = True,
) -> Path:
    """Episodes of a dot at `state` (x, y), which `action` moves by up to 2 pixels per step."""
    rng = np.random.default_rng(seed)
    grid = np.arange(size, dtype=np.float32)
    with EpisodeWriter(path) as writer:
        for _ in range(episodes):
            action = rng.uniform(-1, 1, (length, 2)).astype(np.float32)
            position = rng.uniform(3, size - 4, 2)
            states = [position]
            for move in action[:-1]:
                states.append(np.clip(states[-1] + 2 * move, 2, size - 3))
            state = np.array(states, np.float32)
            near_x = np.exp(-((grid - state[:, :1]) ** 2) / 4)
            near_y = np.exp(-((grid - state[:, 1:]) ** 2) / 4)
            picture = 255 * near_y[:, :, None] * near_x[:, None, :]
            pixels = np.repeat(picture[..., None], 3, axis=-1).astype(np.uint8)
            columns = {"pixels": pixels, "action": action}
            writer.append(**columns, **({"state": state} if with_state else {}))
    return path
