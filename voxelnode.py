"""voxelnode: a DICOM node that converts received series to volumes.

Programs import this module (docs/python.md), and packages that add to the node `voxelnode.api` (docs/extensions.md).
The package beside it is called `node`, as are a project on the package index and many a folder beside a script. This
module therefore loads the package from its place, wherever the search path of Python leads.
"""

from __future__ import annotations

import os
import sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node import *  # noqa: F403
    from node import __version__ as __version__
    from node import api as api


def _package() -> ModuleType:
    """Return the package `node` beside this module.

    Raises ImportError: another `node` is loaded, or the files of the package are not those of voxelnode.
    """
    file = os.path.join(os.path.dirname(os.path.abspath(__file__)), "node", "__init__.py")
    loaded = sys.modules.get("node")
    if loaded is not None:
        found = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", ())), "without a file")
        if os.path.realpath(found) != os.path.realpath(file):
            raise ImportError(
                f"voxelnode cannot load its package 'node' ({file}): this program has loaded another one, {found}. "
                "Rename that one, or uninstall what it is part of (pip uninstall node)."
            )
        if _is_of_voxelnode(loaded):
            return loaded
    spec = spec_from_file_location("node", file)
    assert spec is not None
    assert spec.loader is not None
    # The project `node` has every start of Python list this module without running it (its file NAME-nspkg.pth).
    module = sys.modules["node"] = loaded or module_from_spec(spec)
    cause = None
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        cause = error
    if cause is not None or not _is_of_voxelnode(module):
        del sys.modules["node"]
        raise ImportError(
            f"{file} is not the file of voxelnode: another package called 'node' has replaced or removed it. Run pip "
            "uninstall node, then install voxelnode again with --force-reinstall --no-deps."
        ) from cause
    return module


def _is_of_voxelnode(module: ModuleType) -> bool:
    return "VoxelnodeError" in getattr(module, "__all__", ())


_node = _package()

if not TYPE_CHECKING:  # a checker of types would take any name for one of this module
    from node import api

    sys.modules["voxelnode.api"] = api
    __version__ = _node.__version__
    __all__ = [*_node.__all__, "api"]

    def __getattr__(name: str) -> Any:
        """Return a name of the package, loaded when it is first used (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module 'voxelnode' has no attribute {name!r}")
        return getattr(_node, name)

    def __dir__() -> list[str]:
        """Return what programs use, whether or not it is loaded yet."""
        return sorted(__all__)


def main() -> None:
    """Run the command ``voxelnode``."""
    from node.cli import main

    main()


if __name__ == "__main__":
    main()
