"""FSL's gradient table of a diffusion series: ``.bval``, and ``.bvec`` if directions are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from node.volume.model import Diffusion, Float, Volume
from node.writers.base import write_file


def write_gradients(volume: Volume, folder: Path, stem: str) -> tuple[Path, ...]:
    """Write FSL's ``.bval``, and ``.bvec`` if directions are known; return the paths.

    If no direction is known, no ``.bvec`` is written: zeros would mean that no volume is weighted.
    """
    if volume.diffusion is None or any(weighting.derived for weighting in volume.diffusion):
        return ()
    paths = [folder / f"{stem}.bval"]
    b_values = " ".join(f"{weighting.b_value:g}" for weighting in volume.diffusion)
    write_file(paths[0], f"{b_values}\n".encode("ascii"))
    vectors = image_directions(volume.diffusion, volume.affine_lps) if volume.affine_lps is not None else None
    weighted = any(weighting.b_value > 0 for weighting in volume.diffusion)
    if vectors is not None and (vectors.any() or not weighted):
        lines = (" ".join(f"{component:.8f}" for component in row) for row in vectors)
        paths.append(folder / f"{stem}.bvec")
        write_file(paths[1], ("\n".join(lines) + "\n").encode("ascii"))
    return tuple(paths)


def image_directions(diffusion: tuple[Diffusion, ...], affine_lps: Float) -> Float:
    """Return the (3, times) gradient directions along the axes of the image, in FSL's convention.

    FSL reverses x if the affine has a positive determinant (in RAS+ and LPS+ alike). Unweighted volumes and volumes
    without a direction get zeros.

    Parameters
    ----------
    diffusion : (times,) of Diffusion
        Directions are unit vectors in LPS.
    affine_lps : (4, 4) float64, mm
        From voxel index (column, row, slice) to LPS+.
    """
    along_row = affine_lps[:3, 0] / np.linalg.norm(affine_lps[:3, 0])
    down_column = affine_lps[:3, 1] - along_row * (along_row @ affine_lps[:3, 1])
    down_column /= np.linalg.norm(down_column)
    positive = np.linalg.det(affine_lps[:3, :3]) > 0
    normal = np.cross(along_row, down_column) * (1 if positive else -1)
    axes = np.array([-along_row if positive else along_row, down_column, normal])
    zero = np.zeros(3)
    directions = [
        zero if weighting.direction_lps is None or weighting.b_value <= 0 else weighting.direction_lps
        for weighting in diffusion
    ]
    rotated: Float = axes @ np.array(directions, dtype=np.float64).T + 0.0  # + 0.0 removes negative zeros from the text
    return rotated
