"""A part of a raster."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a raster, in pixels, from its first column and row on."""

    x: int
    y: int
    width: int
    height: int

    def inside(self, outer: "Window") -> tuple[slice, slice]:
        """Find this window in an array of another one.

        >>> Window(10, 20, 5, 6).inside(Window(8, 16, 100, 100))
        (slice(4, 10, None), slice(2, 7, None))
        """
        top, left = self.y - outer.y, self.x - outer.x
        return slice(top, top + self.height), slice(left, left + self.width)
