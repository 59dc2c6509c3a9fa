"""Programs of the system that tests run as peers."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

SYSTEM_PATH = "/usr/local/bin:/usr/bin:/usr/sbin:/bin"
"""Where Debian's programs are; in an active virtual environment, pynetdicom's of the same names come first."""


DCM2NIIX = shutil.which("dcm2niix", path=str(Path(sys.executable).parent)) or shutil.which("dcm2niix")
"""Beside the interpreter, where the extra `test` puts it, else on the PATH; None without it."""


def needs(program: str, package: str = "dcmtk") -> str:
    """The path of a program of Debian, not one of the same name of a Python package; skips the test without it."""
    path = shutil.which(program, path=SYSTEM_PATH)
    if path is None:
        pytest.skip(f"{program} is not installed (Debian package {package})")
    return path
