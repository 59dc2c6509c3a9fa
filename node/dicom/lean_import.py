"""Import libraries without what they load only because it is installed.

pydicom loads every codec that it finds, and libraries for downloads. Together they take 40 MB and a fifth of a second.
Frames are decoded by `node.volume.read.decoders`, which loads the codec of a frame.

All of this is what Python documents of its import system: None in `sys.modules`, finders, and `LazyLoader`. If pydicom
loads other libraries one day, a process starts more slowly, and nothing else changes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader, find_spec, module_from_spec
from types import ModuleType
from typing import Any

LOADED_BY_PYDICOM = ("gdcm", "jpeg_ls", "openjpeg", "PIL", "pylibjpeg", "requests", "rle", "tqdm")
"""Libraries that pydicom loads if they are installed."""

HARDLY_USED_BY_PYDICOM = ("pydicom.examples", "urllib.error", "urllib.request")
"""Modules that pydicom always loads, for its example files and for downloads of more of them."""


def load_pydicom() -> None:
    """Load pydicom, with NumPy for its lookup tables, for a process that reads pixels."""
    import_module("numpy")
    with absent(*LOADED_BY_PYDICOM), on_first_use(*HARDLY_USED_BY_PYDICOM):
        import_module("pydicom")


def load_names() -> None:
    """Load pydicom without NumPy, for a process that reads headers or names of attributes, and no pixels."""
    with absent(*LOADED_BY_PYDICOM, "numpy"), on_first_use(*HARDLY_USED_BY_PYDICOM):
        import_module("pydicom")


def in_parts(package: str) -> None:
    """Let an import of a module of `package` load this module, without all that the package itself imports.

    nibabel imports every format that it knows, which takes twice as long as its NIfTI. The package loads itself when
    another attribute of it is used.
    """
    spec = find_spec(package)
    if package in sys.modules or spec is None or spec.loader is None:
        return
    loader = spec.loader
    module = module_from_spec(spec)

    def of_package(name: str) -> Any:
        with suppress(ModuleNotFoundError):
            return import_module(f"{package}.{name}")
        del module.__getattr__
        loader.exec_module(module)
        return getattr(module, name)

    module.__getattr__ = of_package  # type: ignore[method-assign]  # PEP 562
    sys.modules[package] = module


@contextmanager
def absent(*libraries: str) -> Iterator[None]:
    """Let an import of `libraries` fail as if they were not installed, except for those that are loaded already."""
    hidden = [name for name in libraries if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: the import fails
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def on_first_use(*modules: str) -> Iterator[None]:
    """Let an import of `modules` give modules that load themselves when an attribute of theirs is used.

    Only ``import name`` gains time; ``from name import attribute`` is a use.
    """
    finder = _LazyFinder(modules)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _LazyFinder(MetaPathFinder):
    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self._modules else None
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec
