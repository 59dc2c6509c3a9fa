"""voxelnode: a DICOM node that converts received series to volumes."""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.version import __version__

if TYPE_CHECKING:
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
    from node.errors import VoxelnodeError

__all__ = [
    "Rectangle", "VoxelnodeError", "__version__", "contours", "convert", "handlers", "masked", "montage", "open",
    "project", "read_rectangles", "refined", "threshold", "write_labelled_npz", "write_montage", "write_rectangles",
    "write_slices",
]  # fmt: skip


def handlers(root: str | PathLike[str], keys: dict[str, Any] | None = None, *, create: bool = False) -> Handlers:
    """Run a node on a root behind an acceptor of pynetdicom, until the handlers that are returned are closed.

    Give them to the acceptor as ``evt_handlers``. `node.open` reads the root meanwhile, and a hook says when a volume
    was written (docs/pynetdicom.md).

    `keys`: of the configuration, such as ``{"series.quiet_seconds": 30}``, over its file and the environment.
    `create`: make the root if there is none, also in a folder of other files, which stay and are not received.

    Raises UsageError: the configuration is wrong, or the root is a file, or a folder that is not a root: its disk may
    not be mounted.
    Raises RootInUse: another process has the root. Both are a `VoxelnodeError`.
    """
    from node.control.handlers import Handlers

    return Handlers(Path(root), keys or {}, create=create)


def __getattr__(name: str) -> Any:
    """Return what programs read volumes with, loaded when it is first used (docs/python.md)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "node.errors" if name == "VoxelnodeError" else "node.control.opened"
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    """Return what programs use, whether or not it is loaded yet."""
    return sorted(__all__)
