"""Checks of what the statement says of the instances that this version makes; no node is asked."""

from __future__ import annotations

import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from node.extensions.conformance.claims import Claim, Finding, Unchecked, held_if
from node.extensions.conformance.document import Table
from node.extensions.conformance.target import Target

VALIDATOR = "dciodvfy"
"""Of dicom3tools; knows the modules and types of each IOD."""

_UNKNOWN = "Information Object Not found"
_SECONDS = 120


@cache
def _made() -> dict[str, Table]:
    from node.extensions.results.samples import described
    from node.extensions.results.statement import tables_of_made

    return dict(tables_of_made(described()))


def described(_: Target, claim: Claim) -> Finding:
    """A result that is made now has what the row says."""
    now = _made()[claim.table]
    return held_if(tuple(claim.row.values()) in now.rows, "a result that is made now has something else")


def validated(_: Target, claim: Claim) -> Finding:
    """The validator finds no error in a result of this kind."""
    errors = _errors()[claim.row["Instance"]]
    if any(_UNKNOWN in error for error in errors):
        raise Unchecked(f"this {VALIDATOR} does not know the SOP class")
    return held_if(not errors, "; ".join(errors[:3]))


@cache
def _errors() -> dict[str, list[str]]:
    from node.extensions.results.samples import recorded, samples

    program = shutil.which(VALIDATOR)
    if program is None:
        raise Unchecked(f"{VALIDATOR} (dicom3tools) is not installed")
    with TemporaryDirectory() as folder:
        files = samples(Path(folder))
        return {made.title: _of_file(program, file) for made, file in zip(recorded(), files, strict=True)}


def _of_file(program: str, path: Path) -> list[str]:
    done = subprocess.run([program, "-new", path], capture_output=True, timeout=_SECONDS, check=False)
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    return [line for line in lines if line.startswith("Error")]
