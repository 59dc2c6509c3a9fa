"""FSL's gradient table of a diffusion series: ``.bval``, and ``.bvec`` if directions are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from node.volume.model import Diffusion, Float, Volume
from node.writers.base import write_file


def write_gradients(volume: Volume, folder: Path, stem: str) -> tuple[Path, ...]:
    """Write FSL's ``.bval``, and ``.bvec`` if directions are known; return the paths.

    Trace and isotropic images have a table if they have several b-values; their directions are zeros, and so is one
    that the images state as zeros. If no direction is known, no ``.bvec`` is written: zeros would mean that none is
    needed. Maps (ADC, FA) have no table.
    """
    if volume.diffusion is None or not _has_table(volume.diffusion):
        return ()
    paths = [folder / f"{stem}.bval"]
    b_values = " ".join(f"{weighting.b_value:g}" for weighting in volume.diffusion)
    write_file(paths[0], f"{b_values}\n".encode("ascii"))
    vectors = image_directions(volume.diffusion, volume.affine_lps) if volume.affine_lps is not None else None
    if vectors is not None and _directions_are_known(volume.diffusion):
        lines = (" ".join(f"{component:.8f}" for component in row) for row in vectors)
        paths.append(folder / f"{stem}.bvec")
        write_file(paths[1], ("\n".join(lines) + "\n").encode("ascii"))
    return tuple(paths)


def _has_table(diffusion: tuple[Diffusion, ...]) -> bool:
    if any(weighting.derived and not weighting.trace for weighting in diffusion):
        return False
    several = len({weighting.b_value for weighting in diffusion}) > 1
    return several or not any(weighting.trace for weighting in diffusion)


def _directions_are_known(diffusion: tuple[Diffusion, ...]) -> bool:
    """Return whether a weighted volume has a direction, or whether none needs one."""
    directed = [weighting for weighting in diffusion if weighting.b_value > 0 and not weighting.trace]
    return not directed or any(weighting.direction_lps is not None for weighting in directed)


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
