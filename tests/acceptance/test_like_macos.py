"""What people do with folders and files is done on macOS as on Linux; what would acknowledge is refused there.

No Mac is asked: each command starts without what only Linux has (tests/like_macos).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import make
from tests.preloaded import LIKE_MACOS, run
from tests.reference.cases import corpus_cases

SENTENCE = "child processes are not confined on this system"

pytestmark = pytest.mark.slow


def on_macos(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "node", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **LIKE_MACOS}, check=False)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.corpus
@pytest.mark.parametrize("step", [20, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_the_corpus_is_converted_byte_for_byte_as_on_linux(step: int, corpus: Path, tmp_path: Path) -> None:
    command = "convert", *(corpus / case for case in corpus_cases(corpus)[::step]), "--format", "nifti,mhd,nrrd", "-o"
    linux, macos = run(*command, tmp_path / "linux"), on_macos(*command, tmp_path / "macos")
    assert (macos.returncode, macos.stderr) == (linux.returncode, f"{SENTENCE}\n{linux.stderr}")
    assert files_of(tmp_path / "macos") == files_of(tmp_path / "linux")
    assert json.loads((tmp_path / "macos/conversion.json").read_text())["volumes"]


def test_what_looks_at_files_and_roots_answers_as_on_linux(tmp_path: Path) -> None:
    scans, root, key = (tmp_path / name for name in ("scans", "root", "key"))
    make.saved(series := make.ct_series(3), scans)
    run("import", "--root", root, scans, check=True)
    run("convert", scans, "-o", tmp_path / "volumes", check=True)
    run("pseudonyms", "new", key, check=True)
    for command, says_it in {
        ("dump", next(scans.iterdir())): True,
        ("dump", series[0].SOPInstanceUID, "--root", root): True,
        ("info", series[0].SeriesInstanceUID, "--root", root): False,
        ("series", "--root", root): False,
        ("select", 'modality == "CT"', "--root", root): False,
        ("volume", "project", *tmp_path.rglob("*.nii.gz"), "-o", tmp_path / "OUT.nii.gz"): False,
        ("deidentify", scans, tmp_path / "OUT", "--key", key): False,
        ("bids", tmp_path / "OUT", "--from", scans, "--key", key): True,
    }.items():
        here, there = (
            [str(word).replace("OUT", f"{command[0]}-{at}") for word in command] for at in ("linux", "macos")
        )
        linux, macos = run(*here), on_macos(*there)
        assert (macos.returncode, macos.stdout.replace("-macos", "-linux")) == (0, linux.stdout), command
        assert macos.stderr == (f"{SENTENCE}\n" if says_it else "") + linux.stderr
    every = files_of(tmp_path)
    made = {name.replace("-macos", "-linux"): content for name, content in every.items() if "-macos" in name}
    assert made
    assert made.items() <= every.items()


def test_what_would_acknowledge_is_refused_in_a_sentence_and_makes_nothing(tmp_path: Path) -> None:
    make.saved(make.ct_series(1), tmp_path / "scans")
    (tmp_path / "root/objects").mkdir(parents=True)
    for name, *command in (
        ("new", "serve", "--create"),
        ("new", "import", tmp_path / "scans"),
        ("new", "demo"),
        ("root", "db", "rebuild"),
    ):
        refused = on_macos(*command, "--root", tmp_path / name)
        assert refused.returncode == 1
        assert "this needs Linux: here, a sync may end before the disk has the bytes" in refused.stderr
        assert [*files_of(tmp_path)] == ["scans/0000.dcm"], command
    found = json.loads(on_macos("doctor", "--json", "--root", tmp_path / "root").stdout)["findings"]
    said = {"not confined on this system", *refused.stderr.removeprefix("voxelnode: ").splitlines()}
    assert said <= {row["found"] for row in found}
