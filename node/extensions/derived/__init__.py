"""Projections and masks of volume files, by command; the arithmetic is in `node.volume.derived`."""

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
                "voxelnode volume mask head.nii.gz -o bone.nii.gz --above 300 --open 2 --fill --outside -1000",
                "voxelnode volume slices head.nii.gz -o pictures --plane coronal --window 40 400",
                "voxelnode volume montage head.nii.gz -o montage.png --step 10 --columns 4",
                "voxelnode volume rectangles head.nii.gz findings.csv -o pictures",
                "voxelnode volume npz head.nii.gz segmentation.nii.gz -o head.npz",
            ),
            before="import",
        ),
    )


EXTENSION = _Derived()
