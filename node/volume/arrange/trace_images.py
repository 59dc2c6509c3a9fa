"""Trace images beside unweighted ones: one stack of several b-values, if the series has no directions."""

from __future__ import annotations

from collections.abc import Sequence

from node.volume.model import Frame


def join_unweighted_images(frames: Sequence[Frame]) -> None:
    """Let trace and isotropic images share a stack with the unweighted images of their series.

    Scanners write such a series instead of single directions, and its volumes differ in their b-values alone. If images
    are weighted in a direction, the unweighted ones belong to these, and trace images are a map of them.
    """
    known = [frame.diffusion for frame in frames if frame.diffusion is not None]
    if any(diffusion.b_value > 0 and not diffusion.derived for diffusion in known):
        return
    for frame in frames:
        if frame.diffusion is not None and frame.diffusion.trace:
            frame.split_key = {**frame.split_key, "map": False}
