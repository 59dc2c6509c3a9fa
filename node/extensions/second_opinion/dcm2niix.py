"""dcm2niix as a second opinion; it is no dependency of the node, and its user installs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from node.errors import UsageError
from node.extensions.second_opinion.differences import differences, volumes_in

PROGRAM = "dcm2niix"

OPTIONS = ("-b", "y", "-ba", "n", "-z", "n", "-p", "n", "-f", "%s_%e_%n")
"""Sidecars, nothing left out of them, no compression, and the values that Rescale Slope states: ``-p n``, since
Philips' own scaling, its default, gives other units."""

DEADLINE_SECONDS = 1800


def comparer() -> Callable[[Sequence[Path], Sequence[Path]], dict[str, Any]]:
    """Return the function that compares a series; raise `UsageError` if dcm2niix is not installed."""
    program = shutil.which(PROGRAM, path=str(Path(sys.executable).parent)) or shutil.which(PROGRAM)
    if program is None:
        raise UsageError(f"--compare {PROGRAM}: there is no {PROGRAM} on the PATH: pip install {PROGRAM}")
    banner = subprocess.run([program, "--version"], capture_output=True, text=True, errors="replace", check=False)
    found = re.search(r"v\d[\d.]*", banner.stdout)
    version = found[0] if found else "of an unknown version"

    def compare(files: Sequence[Path], volumes: Sequence[Path]) -> dict[str, Any]:
        """Compare the NIfTI files of a series with those that dcm2niix makes of the same files.

        Returns
        -------
        dict
            ``program``, ``agrees``, ``volumes`` and ``their_volumes`` (numbers of them), ``differences`` (rows of
            `node.extensions.second_opinion.differences`), and ``problem``: why there is no comparison, or None.
        """
        with tempfile.TemporaryDirectory(prefix="second-opinion-") as temporary:
            given, made = Path(temporary, "in"), Path(temporary, "out")
            given.mkdir()
            made.mkdir()
            for number, file in enumerate(files):  # names of its own: it takes what ends in .png or .txt for no DICOM
                (given / f"{number}.dcm").symlink_to(file.resolve())
            problem, rows = _run(program, given, made), []
            theirs = volumes_in(made.rglob("*.nii"))
            try:
                rows = [] if problem else differences(volumes_in(volumes), theirs, files)
            except Exception as error:  # the conversion stands, whatever it is compared with
                problem = f"the volumes cannot be compared: {type(error).__name__}: {error}"
        return {
            "program": f"{PROGRAM} {version}",
            "agrees": not problem and not rows,
            "volumes": len(volumes),
            "their_volumes": len(theirs),
            "differences": rows,
            "problem": problem,
        }

    return compare


def _run(program: str, given: Path, made: Path) -> str | None:
    """Run dcm2niix; return why it did not end, or None. The exit status is ignored: it also reports refused volumes."""
    command = [program, *OPTIONS, "-o", str(made), str(given)]
    try:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{PROGRAM} did not end: {error}"
    return f"signal {-ended.returncode} ended {PROGRAM}" if ended.returncode < 0 else None
