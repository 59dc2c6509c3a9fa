"""FSL's gradient table beside a diffusion series: ``.bval`` and, where directions are known, ``.bvec``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from node.volume.model import Diffusion, Float, Volume
from node.writers.base import write_file


def write_gradients(volume: Volume, folder: Path, stem: str) -> tuple[Path, ...]:
    """Write FSL's ``.bval``, and ``.bvec`` where directions are known; return the paths.

    Without any known direction there is no ``.bvec``: zeros in it would say that nothing was weighted.
    """
    if volume.diffusion is None or any(one.derived for one in volume.diffusion):
        return ()
    paths = [folder / f"{stem}.bval"]
    write_file(paths[0], (" ".join(f"{one.b_value:g}" for one in volume.diffusion) + "\n").encode("ascii"))
    vectors = image_directions(volume.diffusion, volume.affine_lps) if volume.affine_lps is not None else None
    weighted = any(one.b_value > 0 for one in volume.diffusion)
    if vectors is not None and (vectors.any() or not weighted):
        lines = (" ".join(f"{component:.8f}" for component in row) for row in vectors)
        paths.append(folder / f"{stem}.bvec")
        write_file(paths[1], ("\n".join(lines) + "\n").encode("ascii"))
    return tuple(paths)


def image_directions(diffusion: tuple[Diffusion, ...], affine_lps: Float) -> Float:
    """Return the (3, times) gradient directions along the axes of the image, as FSL counts them.

    FSL takes x from the other side where the affine has a positive determinant (in RAS+ and LPS+ alike). Unweighted
    volumes, and those without a direction, get zeros.
    """
    along_row = affine_lps[:3, 0] / np.linalg.norm(affine_lps[:3, 0])
    down_column = affine_lps[:3, 1] - along_row * (along_row @ affine_lps[:3, 1])
    down_column /= np.linalg.norm(down_column)
    positive = np.linalg.det(affine_lps[:3, :3]) > 0
    normal = np.cross(along_row, down_column) * (1 if positive else -1)
    axes = np.array([-along_row if positive else along_row, down_column, normal])
    zero = np.zeros(3)
    directions = [zero if one.direction_lps is None or one.b_value <= 0 else one.direction_lps for one in diffusion]
    rotated: Float = axes @ np.array(directions, dtype=np.float64).T + 0.0  # + 0.0: no minus zeros in the text
    return rotated
