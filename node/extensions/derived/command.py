"""``voxelnode volume project|mask|slices|montage|rectangles|npz``."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from node.api import Answer, Commands, PlaneName, UsageError, counted

volume = Commands(help="Make other volumes and pictures of a volume file.", no_args_is_help=True)

VolumeFile = Annotated[
    Path, typer.Argument(metavar="VOLUME", exists=True, dir_okay=False, help="NIfTI, MetaImage or NRRD.")
]
Output = Annotated[
    Path, typer.Option("--out", "-o", metavar="FILE", help="Volume file; its suffix says the format. It is replaced.")
]

Picture = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="PNG file. It is replaced.")]
Folder = Annotated[Path, typer.Option("--out", "-o", metavar="FOLDER", help="Folder for PNG files; made if missing.")]
PlaneOption = Annotated[PlaneName, typer.Option("--plane", help="Plane of the slices.")]
Window = Annotated[
    tuple[float, float] | None,
    typer.Option("--window", metavar="CENTRE WIDTH", help="Values from dark to bright. [default: of the modality]"),
]


@contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


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

    with _refused():
        voxels, affine = read_voxels(file)
        write_voxels(out, collapse(voxels, affine, plane, "minip" if minimum else "mip"), affine)
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
    fill: Annotated[bool, typer.Option("--fill", help="Fill the holes of the mask in each slice.")] = False,
    opening: Annotated[
        int, typer.Option("--open", metavar="VOXELS", min=0, help="Then keep only what squares of this side cover.")
    ] = 0,
) -> Answer:
    """Write which voxels have values in a range, or only these.

    Every such voxel counts, whether or not it is connected with others: the body of a CT, without table and clothes, is
    `voxelnode convert --mask`. A hole has no way to the border of its slice; the slices are those of the file.
    """
    if above is None and below is None:
        raise UsageError("give --above, --below or both: a mask of all voxels says nothing")

    from math import inf

    from node.api import masked, read_voxels, refined, threshold, write_voxels

    with _refused():
        voxels, affine = read_voxels(file)
        found = threshold(voxels, -inf if above is None else above, inf if below is None else below)
        if opening or fill:
            found = refined(found, opening, fill)
        write_voxels(out, found if outside is None else masked(voxels, found, outside), affine)
    inside = int(found.sum())
    return Answer({"path": str(out), "voxels": inside}, f"{out}: {inside} of {found.size} voxels")


@volume.command()
def slices(
    file: VolumeFile,
    out: Folder,
    plane: PlaneOption = "axial",
    step: Annotated[int, typer.Option("--step", metavar="N", min=1, help="Only every Nth slice.")] = 1,
    window: Window = None,
) -> Answer:
    """Write the slices of a plane as PNG files.

    They are numbered from the feet, the front or the right, of the middle time, as radiologists view them.
    """
    from node.api import read_sidecar, read_voxels, write_slices

    with _refused():
        written = write_slices(out, *read_voxels(file), plane, step, window, read_sidecar(file).get("Modality", ""))
    return Answer({"path": str(out), "slices": len(written)}, f"{out}: {counted(len(written), 'slice')}")


@volume.command()
def montage(
    file: VolumeFile,
    out: Picture,
    plane: PlaneOption = "axial",
    step: Annotated[int, typer.Option("--step", metavar="N", min=1, help="Only every Nth slice.")] = 5,
    columns: Annotated[
        int, typer.Option("--columns", metavar="N", min=0, help="Slices in a row of the grid. [default: nearly square]")
    ] = 0,
    window: Window = None,
) -> Answer:
    """Write slices of a plane in a grid, as one PNG file."""
    from node.api import read_sidecar, read_voxels, write_montage

    with _refused():
        modality = read_sidecar(file).get("Modality", "")
        count = write_montage(out, *read_voxels(file), plane, step, columns, window, modality)
    return Answer({"path": str(out), "slices": count}, f"{out}: {counted(count, 'slice')}")


@volume.command()
def rectangles(
    file: VolumeFile,
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", exists=True, dir_okay=False, help="CSV or XLSX, with a row for each.")
    ],
    out: Folder,
    plane: PlaneOption = "axial",
    window: Window = None,
) -> Answer:
    """Write slices with the rectangles of a table as PNG files.

    The first row names the columns slice, left, top, width, height and, if there are labels, label. Slices count from
    1, as the files of `voxelnode volume slices`; the others are pixels of the slice from its top left corner.
    """
    from node.api import read_rectangles, read_sidecar, read_voxels, write_rectangles

    with _refused():
        drawn = read_rectangles(table)
        modality = read_sidecar(file).get("Modality", "")
        written = write_rectangles(out, *read_voxels(file), drawn, plane, window, modality)
    text = f"{out}: {counted(len(drawn), 'rectangle')} on {counted(len(written), 'slice')}"
    return Answer({"path": str(out), "rectangles": len(drawn), "slices": len(written)}, text)


@volume.command()
def npz(
    file: VolumeFile,
    labels: Annotated[
        list[Path],
        typer.Argument(metavar="LABELS...", exists=True, dir_okay=False, help="Label volumes of it, such as of a SEG."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="NPZ file. It is replaced.")],
) -> Answer:
    """Write a volume and its labels as one NPZ file.

    The labels are on the grid of the volume there, without interpolation. Volumes of segmentations and of structure
    sets, as nodes and `voxelnode convert` make them, are such labels; of several, each is an array.
    """
    from node.api import read_sidecar, read_voxels, write_labelled_npz

    with _refused():
        voxels, affine = read_voxels(file)
        read = [read_voxels(one) for one in labels]
        fields = [read_sidecar(one) for one in labels]
        for warning in write_labelled_npz(out, voxels, affine, read, read_sidecar(file), fields):
            print(f"voxelnode: {warning}", file=sys.stderr)
    return Answer({"path": str(out), "labels": len(labels)}, f"{out}: {counted(len(labels), 'label volume')}")
