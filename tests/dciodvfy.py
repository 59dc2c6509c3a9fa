"""Instances judged by ``dciodvfy`` of dicom3tools, which knows the modules and types of every IOD."""

import re
import subprocess
from collections import Counter
from pathlib import Path

from tests.programs import needs

UNREADABLE = "Error - Dicom dataset read failed"

_VALUE = re.compile(r"<[^<>/]*>")
"""Values in messages, such as UIDs, which may differ where the mistake is the same; not the places of attributes."""


def errors(path: Path) -> Counter[str]:
    """Return what is wrong with an instance, without the values; skips the test without the program."""
    command = [needs("dciodvfy", "dicom3tools"), "-new", path]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    lines = (done.stdout + done.stderr).decode("utf-8", "replace").splitlines()
    return Counter(_VALUE.sub("<>", line) for line in lines if line.startswith("Error"))


def new_errors(original: Path, copy: Path) -> list[str]:
    """Return what is wrong with a copy, and was not with the original; nothing if the original cannot be read."""
    before = errors(original)
    return [] if UNREADABLE in before else list((errors(copy) - before).elements())
