"""``voxelnode volume project|mask``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from node.api import Answer, Commands, PlaneName, UsageError

volume = Commands(help="Make other volumes of a volume file.", no_args_is_help=True)

VolumeFile = Annotated[
    Path, typer.Argument(metavar="VOLUME", exists=True, dir_okay=False, help="NIfTI, MetaImage or NRRD.")
]
Output = Annotated[
    Path, typer.Option("--out", "-o", metavar="FILE", help="Volume file; its suffix says the format. It is replaced.")
]


@volume.command()
def project(
    file: VolumeFile,
    out: Output,
    plane: Annotated[PlaneName, typer.Option("--plane", help="Plane that the projection shows.")] = "axial",
    minimum: Annotated[bool, typer.Option("--minimum", help="Smallest values (MinIP) instead of largest.")] = False,
) -> Answer:
    """Project the largest or smallest values along an axis.

    The file has one slice, in the place of the first one, with the values of the volume.
    """
    from node.api import collapse, read_voxels, write_voxels

    try:
        voxels, affine = read_voxels(file)
        write_voxels(out, collapse(voxels, affine, plane, "minip" if minimum else "mip"), affine)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return Answer({"path": str(out)}, str(out))


@volume.command()
def mask(
    file: VolumeFile,
    out: Output,
    above: Annotated[float | None, typer.Option("--above", metavar="VALUE", help="Smallest value inside.")] = None,
    below: Annotated[float | None, typer.Option("--below", metavar="VALUE", help="Largest value inside.")] = None,
    outside: Annotated[
        float | None,
        typer.Option("--outside", metavar="VALUE", help="Write the volume with this value outside, not the mask."),
    ] = None,
) -> Answer:
    """Write which voxels have values in a range, or only these.

    Every such voxel counts, whether or not it is connected with others: the body of a CT, without table and clothes, is
    `voxelnode convert --mask`.
    """
    if above is None and below is None:
        raise UsageError("give --above, --below or both: a mask of all voxels says nothing")

    from math import inf

    from node.api import masked, read_voxels, threshold, write_voxels

    try:
        voxels, affine = read_voxels(file)
        found = threshold(voxels, -inf if above is None else above, inf if below is None else below)
        write_voxels(out, found if outside is None else masked(voxels, found, outside), affine)
    except ValueError as error:
        raise UsageError(str(error)) from error
    inside = int(found.sum())
    return Answer({"path": str(out), "voxels": inside}, f"{out}: {inside} of {found.size} voxels")
