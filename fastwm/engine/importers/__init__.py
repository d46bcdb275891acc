"""Importers: a module in, (spec, encoder) out. One file per family."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from fastwm.engine.engine import Imported


def import_model(model: nn.Module) -> Imported:
    """The importer that knows this model. Raises TypeError, listing what is known, if none does."""
    from fastwm.engine.importers import lewm, own, wam
    from fastwm.models import WorldModel
    from fastwm.models.wam import LatentWAM

    if not isinstance(model, nn.Module):
        hint = "; fastwm.load reads one from its directory" if isinstance(model, (str, os.PathLike)) else ""
        raise TypeError(f"model is {type(model).__name__}, expected a torch.nn.Module{hint}")
    if isinstance(model, WorldModel):
        return own.import_world_model(model)
    if isinstance(model, LatentWAM):
        return wam.import_wam(model)
    if lewm.is_lewm(model):
        return lewm.import_lewm(model)
    raise TypeError(
        f"model is {type(model).__module__}.{type(model).__name__}, which no importer knows; "
        "known are fastwm.models.WorldModel, fastwm.models.LatentWAM and stable-worldmodel's LeWM"
    )
