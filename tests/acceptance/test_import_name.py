"""`import voxelnode`: the package `node` of the installation, whatever else is called so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import make
from tests.preloaded import LIKE_MACOS

ROOT = Path(__file__).resolve().parents[2]

CONVERTING = """
import voxelnode
for series in voxelnode.convert("scans", "volumes", formats=("nifti",)).series():
    for volume in series.volumes():
        print(volume.array().shape)
"""

LISTED_ONLY = """
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
sys.modules["node"] = module_from_spec(PathFinder.find_spec("node", [{folder!r}]))
import node, voxelnode
print(voxelnode.open is node.open)
"""
"""A start of Python with the project `node` of the package index beside voxelnode, and what follows."""


def run(folder: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )


@pytest.fixture
def shadowed(tmp_path: Path) -> Path:
    """Return a folder with another `node` in it, and with a series."""
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "__init__.py").write_text("raise SystemExit('a folder of the user')")
    make.saved(make.ct_series(3), tmp_path / "scans")
    return tmp_path


@pytest.mark.slow
def test_a_folder_beside_a_script_is_not_imported_by_it_or_by_its_child_processes(shadowed: Path) -> None:
    (shadowed / "program.py").write_text(CONVERTING)
    done = run(shadowed, "program.py", path=LIKE_MACOS["PYTHONPATH"])  # no fork: each child is another Python
    assert done.stdout == "(12, 16, 3)\n", done.stderr


@pytest.mark.slow
def test_the_command_imports_no_folder_of_its_working_directory_or_of_the_search_path(shadowed: Path) -> None:
    command = str(Path(sys.executable).with_name("voxelnode"))
    done = run(shadowed, command, "convert", "scans", "-o", "volumes", path=str(shadowed))
    assert "1 series: 1 converted" in done.stdout, done.stderr


@pytest.mark.slow
def test_it_offers_the_same_objects_and_loads_no_more(tmp_path: Path) -> None:
    loaded = "import sys; {}; print(sorted(name for name in sys.modules if not name.startswith('importlib.')))"
    inner, outer = (
        run(tmp_path, "-c", loaded.format(f"import {name}")).stdout for name in ("node, node.api", "voxelnode")
    )
    assert set(eval(outer)) - set(eval(inner)) == {"voxelnode", "voxelnode.api"}
    same = "import voxelnode.api as api, voxelnode, node; from voxelnode.api import Settings as one; "
    same += (
        "print(all(getattr(node, name) is getattr(voxelnode, name) for name in node.__all__), one is node.api.Settings)"
    )
    same += "; print(dir(voxelnode) == sorted([*node.__all__, 'api'])); voxelnode.opne"
    done = run(tmp_path, "-c", same)
    assert done.stdout == "True True\nTrue\n", done.stderr
    assert "module 'voxelnode' has no attribute 'opne'" in done.stderr


def test_a_package_that_is_listed_and_not_run_is_run(tmp_path: Path) -> None:
    assert run(tmp_path, "-c", LISTED_ONLY.format(folder=str(ROOT))).stdout == "True\n"


def test_another_package_that_is_loaded_is_named(shadowed: Path) -> None:
    (shadowed / "node" / "__init__.py").write_text("")
    done = run(shadowed, "-c", "import node, voxelnode")
    assert f"loaded another one, {shadowed / 'node' / '__init__.py'}. Rename" in done.stderr


@pytest.mark.parametrize("text", ["open = print", "import nowhere", None])
def test_a_file_that_is_not_of_voxelnode_is_named(tmp_path: Path, text: str | None) -> None:
    (tmp_path / "voxelnode.py").write_text((ROOT / "voxelnode.py").read_text())
    (tmp_path / "node").mkdir()
    if text is not None:
        (tmp_path / "node" / "__init__.py").write_text(text)
    done = run(tmp_path, "-c", "import voxelnode")
    assert f"ImportError: {tmp_path / 'node' / '__init__.py'} is not the file of voxelnode" in done.stderr
    assert "install voxelnode again" in done.stderr
