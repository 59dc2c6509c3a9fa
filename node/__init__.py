"""voxelnode: a DICOM node that converts received series to volumes."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.version import __version__

if TYPE_CHECKING:
    from node.control.connected import connect
    from node.control.handlers import Handlers
    from node.control.opened import (
        Rectangle,
        contours,
        convert,
        masked,
        montage,
        open,
        project,
        read_rectangles,
        refined,
        threshold,
        write_labelled_npz,
        write_montage,
        write_rectangles,
        write_slices,
    )

__all__ = [
    "Rectangle", "__version__", "connect", "contours", "convert", "handlers", "masked", "montage", "open", "project",
    "read_rectangles", "refined", "threshold", "write_labelled_npz", "write_montage", "write_rectangles",
    "write_slices",
]  # fmt: skip


def handlers(root: str | PathLike[str], keys: dict[str, Any] | None = None) -> Handlers:
    """Run a node on a root behind an acceptor of pynetdicom, until the handlers that are returned are closed.

    `keys`: of the configuration, such as ``{"series.quiet_seconds": 30}``. Raises as `node.control.handlers.Handlers`.
    """
    from node.control.handlers import Handlers

    return Handlers(Path(root), keys or {})


def __getattr__(name: str) -> Any:
    """Return what programs read volumes with, loaded when it is first used (docs/python.md)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from node.control import connected, opened

    return getattr(connected if name == "connect" else opened, name)


def __dir__() -> list[str]:
    """Return what programs use, whether or not it is loaded yet."""
    return sorted(__all__)
