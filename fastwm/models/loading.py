"""`fastwm.load`: whatever kind of world model a directory holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from fastwm.models import storage
from fastwm.models.world_model import WorldModel

if TYPE_CHECKING:
    from fastwm.models.wam import LatentWAM


def load(directory: str | os.PathLike[str]) -> WorldModel | LatentWAM:
    """The model saved in `directory`, in evaluation mode: a `WorldModel`, one on a frozen encoder, or a `LatentWAM`.

    Nothing is unpickled. Raises ValueError when a file is missing, damaged, of another version or of another model.
    """
    from fastwm.models.frozen import FORMAT as FROZEN
    from fastwm.models.frozen import FrozenWorldModel
    from fastwm.models.vision import FORMAT as ENCODER
    from fastwm.models.wam.model import FORMAT as WAM
    from fastwm.models.wam.model import LatentWAM

    kind = _kind(Path(directory) / storage.CONFIG_FILE)
    if kind == FROZEN:
        return FrozenWorldModel.load(directory)
    if kind == WAM:
        return LatentWAM.load(directory)
    if kind == ENCODER:
        raise ValueError(
            f"{directory} holds an encoder and no predictor: load it with load_encoder, or train a world model on it "
            "(fastwm train --objective frozen --encoder-dir DIR)"
        )
    return WorldModel.load(directory)  # says what is wrong with anything else


def _kind(path: Path) -> object:
    try:
        description = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return description.get("format") if isinstance(description, dict) else None
