"""Projections and masks of volume files, by command; the arithmetic is in `node.volume.derived`."""

from __future__ import annotations

from node.api import Command, Extension


class _Derived(Extension):
    """What is derived from a volume file."""

    name = "derived"
    commands = (
        Command(
            "volume",
            "Convert",
            f"{__name__}.command:volume",
            (
                "voxelnode volume project head.nii.gz -o mip.nii.gz --plane coronal",
                "voxelnode volume mask head.nii.gz -o bone.nii.gz --above 300 --outside -1000",
            ),
            before="import",
        ),
    )


EXTENSION = _Derived()
