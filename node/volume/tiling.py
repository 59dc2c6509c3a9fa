"""Layout of the planes of a volume that are tiled in one frame (mosaic, grid)."""

from __future__ import annotations

from dataclasses import dataclass

from node.volume.model import Array, Float


@dataclass(frozen=True, slots=True, eq=False)
class Tiling:
    """The tiles of one frame, counted row by row from the top left; only the first `count` of them hold a plane.

    Attributes
    ----------
    positions : (count, 3) float, mm, LPS, or None
        Centre of the first pixel of each tile.
    orientation : (6,) float, or None
        Unit vectors along a row, then down a column; the same for all tiles.
    slice_times_s : (count,) or None
        When each plane was acquired, in seconds from the beginning of the volume.
    """

    count: int
    tile_rows: int
    tile_columns: int
    rows_of_tiles: int
    columns_of_tiles: int
    positions: Float | None = None
    orientation: Float | None = None
    slice_times_s: tuple[float, ...] | None = None

    def cut(self, frame: Array, tile: int) -> Array:
        """Return the pixels of one tile, `tile` from 0: a view of (tile_rows, tile_columns) into the frame."""
        row, column = divmod(tile, self.columns_of_tiles)
        top, left = row * self.tile_rows, column * self.tile_columns
        return frame[top : top + self.tile_rows, left : left + self.tile_columns]
