"""Episodes: collected from a world, written, read."""

from .cache import cached
from .collection import collect
from .episodes import Episodes
from .prefetch import prefetch
from .readers import Damage
from .writer import EpisodeWriter

__all__ = ["Damage", "EpisodeWriter", "Episodes", "cached", "collect", "prefetch"]
