"""The command lines of dcm2niix in docs/convert.md, and ours beside each: both run, and both convert every series."""

import gzip
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import pytest

from tests.preloaded import run

dcm2niix = pytest.importorskip("dcm2niix")

LINES = re.findall(
    r"^\| `(dcm2niix .*?)` \| `voxelnode (.*?)` \|$",
    (Path(__file__).parents[2] / "docs" / "convert.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE,
)
CASES = ("dcm_qa_nih/ge-4d-epi", "dcm_qa_nih/siemens-mosaic-ap", "dcm_qa_nih/siemens-mosaic-rl", "dcm_qa_me/")


@pytest.fixture(scope="module")
def scans(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four series of two scanners, one of them with two echoes, in one folder."""
    folder = tmp_path_factory.mktemp("dcm2niix") / "scans"
    for case in CASES:
        shutil.copytree(corpus / case, folder / case.strip("/").rpartition("/")[2], copy_function=shutil.copyfile)
    return folder


def volumes_in(folder: Path) -> Iterator[tuple[int, ...]]:
    """The shapes of all volumes in a folder, without subfolders."""
    for path in folder.iterdir():
        if path.name.endswith((".nii", ".nii.gz")):
            yield nib.load(path).shape
        elif path.suffix in (".nrrd", ".nhdr"):
            content = path.read_bytes()
            head = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).partition(b"\n\n")[0]
            [sizes] = re.findall(rb"^sizes: (.*)$", head, flags=re.MULTILINE)
            yield tuple(map(int, sizes.split()))


def test_the_table_is_read() -> None:
    assert len(LINES) == 5


@pytest.mark.sample(0, 3)
@pytest.mark.parametrize(("theirs", "ours"), LINES)
def test_a_line_of_dcm2niix_has_its_equivalent(theirs: str, ours: str, scans: Path, tmp_path: Path) -> None:
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scans").symlink_to(scans)
    (tmp_path / "theirs" / "volumes").mkdir()
    program, *arguments = shlex.split(theirs)
    assert program == "dcm2niix"
    subprocess.run([dcm2niix.bin, *arguments], cwd=tmp_path / "theirs", check=False, capture_output=True, timeout=60)
    done = run(*shlex.split(ours), folder=tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    if "--list" in ours:
        assert not (tmp_path / "ours" / "volumes").exists()
        assert done.stdout.count(" -> volumes/") == 5
        return
    made = sorted(volumes_in(tmp_path / "ours" / "volumes"))
    assert made == sorted(volumes_in(tmp_path / "theirs" / "volumes"))
    names = [path.name for path in (tmp_path / "ours" / "volumes").glob("*.n*")]
    assert len({name.casefold() for name in names}) == len(made)
