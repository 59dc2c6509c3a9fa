"""Import libraries without what they load only because it is installed.

pydicom loads every codec that it finds, and libraries for downloads. Together they take 40 MB and a fifth of a second.
Frames are decoded by `node.volume.read.decoders`, which loads the codec of a frame.

Python documents of its import system what is used here, None in `sys.modules`. If pydicom loads other libraries one
day, a process starts more slowly, and nothing else changes.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

LOADED_BY_PYDICOM = ("gdcm", "jpeg_ls", "openjpeg", "PIL", "pylibjpeg", "requests", "rle", "tqdm")
"""Libraries that pydicom loads if they are installed."""

UNUSED = ("numpy._core._add_newdocs", "numpy._core._add_newdocs_scalars", "pydicom.examples", "urllib.request")
"""Modules that NumPy, pydicom and nibabel load for docstrings, examples and downloads: nothing of ours uses them."""


def load_pydicom() -> None:
    """Load pydicom, which loads NumPy for its lookup tables, for a process that reads pixels."""
    with absent(*LOADED_BY_PYDICOM):
        import_module("pydicom")


def load_for_volumes() -> None:
    """Load pydicom, NumPy and nibabel, for a process that converts."""
    with absent(empty=UNUSED):
        load_pydicom()
        import_module("nibabel")


def load_names() -> None:
    """Load pydicom without NumPy, for a process that reads headers or names of attributes, and no pixels."""
    with absent(*LOADED_BY_PYDICOM, "numpy", empty=UNUSED):
        import_module("pydicom")


def load_for_rows() -> None:
    """Load pydicom without NumPy, and structlog without Rich, for a process that reads the index and no pixels."""
    load_names()
    with absent("rich"):  # with which structlog would colour tracebacks
        import_module("structlog")


@contextmanager
def absent(*libraries: str, empty: Iterable[str] = ()) -> Iterator[None]:
    """Let an import of `libraries` fail as if they were not installed, except for those that are loaded already.

    `empty`: an import of these succeeds, and finds nothing in them.
    """
    given = {**dict.fromkeys(libraries), **{name: ModuleType(name) for name in empty}}
    hidden = {name: module for name, module in given.items() if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None: the import fails
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
