"""Episodes: collected from a world, written, read."""

from .collection import collect
from .episodes import Episodes
from .writer import EpisodeWriter

__all__ = ["EpisodeWriter", "Episodes", "collect"]
