"""The validator of BIDS, which comes with the extra `dev`."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")

needs_validator = pytest.mark.skipif(
    not VALIDATOR.exists(), reason="no bids-validator-deno: it comes with the extra `dev`"
)


def errors(dataset: Path, *options: str) -> list[dict[str, str]]:
    """The errors that the validator finds in a copy of a data set: Deno reads nothing in /dev, where tests write."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        copy = shutil.copytree(dataset, Path(folder) / "dataset")
        done = subprocess.run(
            [str(VALIDATOR), "--json", str(copy), *options], capture_output=True, text=True, timeout=100, check=False
        )
    assert done.stdout, done.stderr
    return [issue for issue in json.loads(done.stdout)["issues"]["issues"] if issue["severity"] == "error"]
