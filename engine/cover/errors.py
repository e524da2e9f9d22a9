"""What goes wrong with a region; the mask and the cover of the whole picture are not touched by it."""

from engine.errors import EngineError


class RegionError(EngineError):
    """A region of interest is not found, or is none."""
