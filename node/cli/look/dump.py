"""``voxelnode dump``."""

import json
import re
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from node.cli.options import Root
from node.cli.output import Listing, described, print_fields, printable
from node.errors import UsageError, VoxelnodeError

VOLUMES = (".nii", ".nii.gz", ".hdr", ".mhd", ".mha", ".nrrd", ".npz")
"""Ends of the names of volume files, whose header is told instead."""

ELEMENTS, CHARACTERS = 50_000, 200
"""Most elements that are printed, and most characters of a value."""

MAX_ANSWER_BYTES = 128 << 20

_UID = re.compile(r"[0-9.]{1,64}")


def dump(
    file_or_uid: Annotated[
        str, typer.Argument(metavar="FILE|UID", help="A file, or the SOP Instance UID of a stored instance.")
    ],
    *,
    root: Root,
) -> Listing:
    """Print the header of a file or of a stored instance.

    Elements are printed as pydicom prints them, long binary values not at all; of a volume file the dimensions, the
    spacing and the affine. Exit 1 if the file is damaged, or not a DICOM file.
    """
    path = Path(file_or_uid)
    if path.is_file():
        return volume_header(path) if is_volume(path) else _dumped(path, path)
    if not _UID.fullmatch(file_or_uid):
        raise UsageError(f"{file_or_uid}: neither a file nor a SOP Instance UID")
    from node.index.looking import the_named

    with root.looking() as index:
        file = index.instances.current(the_named(index, file_or_uid, "instance").uid)
    assert file is not None
    path = root.folder / file.key
    with root.files() as local:
        try:
            return _dumped(path, local(file))
        except FileNotFoundError:
            raise VoxelnodeError(f"{path} is missing: run `voxelnode fsck`") from None


def _dumped(path: Path, local: Path) -> Listing:
    from node.children.decoding import elements_of

    dumped = {"path": str(path), **_by_child(elements_of, local, ELEMENTS, CHARACTERS)}
    return described(dumped, partial(_print, dumped), failed=dumped["error"] is not None)


def _print(dumped: dict[str, Any]) -> None:
    for one in dumped["elements"]:
        head = " ".join(filter(None, (one["tag"], one["vr"], one["keyword"])))
        print(printable("  " * one["depth"] + (f"{head}: {one['text']}" if one["tag"] else head)))
    if dumped["error"]:
        typer.echo(f"voxelnode: {dumped['path']}: {dumped['error']}", err=True)


def is_volume(path: Path) -> bool:
    """Return whether a file has the name of a volume; images of DICOM are called ``.img`` as well."""
    return _header_of(path).name.lower().endswith(VOLUMES) and path.is_file()


def _header_of(path: Path) -> Path:
    header = path.with_suffix(".hdr")
    return header if path.suffix.lower() == ".img" and header.is_file() else path


def volume_header(path: Path) -> Listing:
    """Return the header of a volume file."""
    from node.children.decoding import header_of_volume

    header = {"path": str(path), **_by_child(header_of_volume, _header_of(path))}
    return described(header, partial(print_fields, header))


def _by_child(function: Callable[..., bytes], path: Path, *arguments: Any) -> dict[str, Any]:
    """Have a confined child read a file, which may be hostile. Raises OSError: the file cannot be read."""
    from node.children.decoder import Decoder, NotDecoded

    try:
        with closing(Decoder(workers=1, max_answer_bytes=MAX_ANSWER_BYTES)) as decoder:
            return dict(json.loads(decoder.run(function, path, *arguments)))
    except NotDecoded as error:
        raise VoxelnodeError(f"{path}: {error}") from error
