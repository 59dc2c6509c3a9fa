"""What a build adds to the tree: its commit, and links that work on a package index. By hatchling and git."""

import email
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = runpy.run_path(str(ROOT / "node/version.py"))["PUBLIC"]
NEEDED = (".ci/build_hook.py", ".gitattributes", ".gitignore", "LICENSE", "README.md", "config.example.toml")
NEEDED += ("node/__init__.py", "node/version.py", "pyproject.toml", "migrations/env.py", "docs/data.md")
OF_A_HOST = 32
"""Characters that PostgreSQL keeps of the version of a host: the longest place but for that of a DICOM attribute."""
LINK = re.compile(r"(!?)\[[^]]*\]\(([^)]+)")


def run(folder: Path, *command: str, **environment: str) -> str:
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "VOXELNODE_"))}
    settings |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "EMAIL": "a@b.example"} | environment
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(tree: Path) -> str:
    run(tree, "git", "add", "-A")
    run(tree, "git", "commit", "-q", "--allow-empty", "-m", "Something")
    return run(tree, "git", "rev-parse", "HEAD")


def shown(tree: Path) -> str:
    """Return the version that the modules of a tree state."""
    return str(runpy.run_path(str(tree / "node/version.py"))["__version__"])


def built(tree: Path, target: str = "wheel", **environment: str) -> Path:
    shutil.rmtree(tree / "dist", ignore_errors=True)
    run(tree, sys.executable, "-m", "hatchling", "build", "-t", target, **environment)
    [file] = (tree / "dist").iterdir()
    return file


def version_of(wheel: Path) -> str:
    return wheel.name.split("-")[1]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout with what a build needs."""
    tree = tmp_path / "checkout"
    for name in NEEDED:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    run(tree, "git", "init", "-q", "-b", "main")
    return tree


def shapes(tree: Path) -> Iterator[Path]:
    """Yield checkouts of one commit, as git may leave them."""
    yield tree
    run(tree, "git", "pack-refs", "--all")
    yield tree
    for options in (["-b", "of/a-branch"], ["--detach"]):
        run(tree, "git", "worktree", "add", "-q", *options, other := f"../a tree {options[0]}")
        yield tree / other
    run(tree, "git", "init", "-q", "../outer")
    run(tree / "../outer", "git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tree), "inner")
    yield tree / "../outer/inner"


@pytest.mark.slow
def test_a_checkout_states_its_commit_however_git_keeps_it(tree: Path) -> None:
    assert shown(tree) == f"{PUBLIC}+unknown", "a branch without a commit"
    whole = commit(tree)
    assert [shown(shape) for shape in shapes(tree)] == [f"{PUBLIC}+g{whole[:12]}"] * 5
    (tree / ".git/HEAD").write_text("ref: refs/heads/.invalid\n")  # as in a repository with reftables
    assert shown(tree) == f"{PUBLIC}+unknown"


@pytest.mark.slow
def test_two_commits_are_two_versions_in_wheels_and_in_what_is_made_of_an_archive(tree: Path, tmp_path: Path) -> None:
    for _ in range(2):
        name = commit(tree)
        run(tree, "git", "archive", "-o", f"../{name}.tar", f"--prefix={name}/", "HEAD")
        run(tmp_path, "tar", "xf", f"{name}.tar")
        with tarfile.open(sdist := built(tmp_path / name, "sdist")) as archive:
            archive.extractall(tmp_path, filter="data")
        wheels = built(tree), built(tmp_path / sdist.name.removesuffix(".tar.gz"))
        assert [version_of(wheel) for wheel in wheels] == [f"{PUBLIC}+g{name[:12]}"] * 2
        for wheel in wheels:
            assert f'"{PUBLIC}+g{name[:12]}"' in zipfile.ZipFile(wheel).read("node/version.py").decode()


@pytest.mark.slow
def test_a_build_states_what_is_in_no_commit_and_is_refused_if_nobody_knows_it(tree: Path) -> None:
    name = commit(tree)
    (tree / "dist.txt").write_text("in no wheel")
    (tree / "node/new.py").write_text("")
    stated = version_of(built(tree))
    assert stated == f"{PUBLIC}+g{name[:12]}.dirty"
    assert len(stated) <= OF_A_HOST
    shutil.rmtree(tree / ".git")
    for wrong in ({}, {"VOXELNODE_COMMIT": "main"}):
        with pytest.raises(AssertionError, match=r"VOXELNODE_COMMIT.*git rev-parse HEAD"):
            built(tree, **wrong)
    assert version_of(built(tree, VOXELNODE_COMMIT="ab" * 20)) == f"{PUBLIC}+gabababababab"


@pytest.mark.slow
def test_a_release_states_no_commit_and_links_lead_to_its_files(tree: Path) -> None:
    module = tree / "node/version.py"
    module.write_text(module.read_text().replace(f'"{PUBLIC}"', '"7.8.9"'))
    assert version_of(built(tree)) == "7.8.9+dirty"
    commit(tree)
    wheel = built(tree)
    assert [version_of(wheel), shown(tree)] == ["7.8.9"] * 2
    described = email.message_from_bytes(zipfile.ZipFile(wheel).read("voxelnode-7.8.9.dist-info/METADATA"))
    links, before = (LINK.findall(text) for text in (described.get_payload(), (ROOT / "README.md").read_text("utf-8")))
    place = described["Project-URL"].partition(", ")[2]
    for (mark, link), (_, target) in zip(links, before, strict=True):
        assert link == (target if ":" in target else f"{place}/{'raw' if mark else 'blob'}/v7.8.9/{target}")
