"""What a build adds to the tree: the commit in its version, and links of README.md that work on a package index.

Hatchling loads this file, as `pyproject.toml` says.
"""

import os
import re
import runpy
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

ROOT = Path(__file__).resolve().parents[1]
MODULE = "node/version.py"
OF_A_WHEEL = ("node", "voxelnode.py", "migrations", "docs", "config.example.toml", "pyproject.toml", "README.md")
MODULE_OF_A_BUILD = '"""The version of this build."""\n\nPUBLIC = "{}"\n__version__ = "{}"\n'


def version() -> str:
    """Return the version of a build of this tree: that of `MODULE`, with ``dirty`` if no commit has its files.

    The environment variable VOXELNODE_COMMIT names the commit of a tree without ``.git``, as in a container.

    Raises ValueError: nobody knows the commit. Two such builds would be one version, of which pip keeps the older.
    """
    module = runpy.run_path(str(ROOT / MODULE))
    found: str = module["__version__"]
    if commit := os.environ.get("VOXELNODE_COMMIT"):
        if not re.fullmatch("[0-9a-f]{40,64}", commit):
            raise ValueError("VOXELNODE_COMMIT is not the name of a commit: `git rev-parse HEAD` prints it")
        return found if found == module["PUBLIC"] else f"{module['PUBLIC']}+g{commit[:12]}"
    if found.endswith("+unknown"):
        raise ValueError(
            "the commit of this tree is not known: set VOXELNODE_COMMIT to what `git rev-parse HEAD` prints"
        )
    if (ROOT / ".git").exists() and _is_changed():
        found += ".dirty" if "+" in found else "+dirty"
    return found


def _is_changed() -> bool:
    command = ["git", "--no-optional-locks", "status", "--porcelain", "--", *OF_A_WHEEL]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout != b""
    except FileNotFoundError:  # a machine without git
        return False


class Readme(MetadataHookInterface):
    """A package index shows README.md without the files beside it: its links lead to those of this version."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description that a package index shows."""
        public, _, local = metadata["version"].partition("+")
        state = local[1:13] if local.startswith("g") else f"v{public}"
        text = (ROOT / "README.md").read_text(encoding="utf-8")
        for mark, kind in (("!", "raw"), ("", "blob")):
            place = f"{metadata['urls']['Repository']}/{kind}/{state}"
            relative = rf"({mark}\[[^]]*\])\((?!https?:|#|mailto:)"
            text = re.sub(relative, rf"\1({place}/", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


class Version(BuildHookInterface[Any]):
    """A wheel and an sdist have no ``.git``: they get the version as text."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Replace `MODULE`; not in an editable wheel, whose checkout moves on to other commits."""
        if version != "editable":
            self._folder = tempfile.TemporaryDirectory()
            module = Path(self._folder.name, "version.py")
            found = self.metadata.version
            module.write_text(MODULE_OF_A_BUILD.format(found.partition("+")[0], found), encoding="utf-8")
            build_data["force_include"][str(module)] = MODULE
