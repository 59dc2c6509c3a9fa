"""Functions of pages that run in the children of `node.children.decoder`; see `node.children.decoding`."""

from pathlib import Path


def reduced_volume(path: Path, voxel_file: Path, sidecar: Path | None, max_voxels: int, only_body: bool) -> bytes:
    """Return a coarser copy of a volume; see `node.extensions.pages.reduced.reduced`."""
    from node.extensions.pages.reduced import reduced

    return reduced(path, voxel_file, max_voxels, only_body=only_body, sidecar=sidecar)


def overlaid_picture(is_ct: bool, pixels: int, image: Path, *masks: Path) -> bytes:
    """Return a picture of masks over an image; see `overlaid`. Empty: it does not lie below them."""
    from node.extensions.pages.reduced import overlaid

    try:
        return overlaid(masks, image, is_ct=is_ct, pixels=pixels)
    except ValueError:
        return b""
