"""The validator of BIDS, which comes with the extra `dev`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

VALIDATOR = Path(sys.executable).with_name("bids-validator-deno")

needs_validator = pytest.mark.skipif(
    not VALIDATOR.exists(), reason="no bids-validator-deno: it comes with the extra `dev`"
)


def errors(*arguments: str) -> list[dict[str, str]]:
    """The errors that the validator finds in a data set."""
    done = subprocess.run(
        [str(VALIDATOR), "--json", *arguments], capture_output=True, text=True, timeout=100, check=False
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [issue for issue in issues if issue["severity"] == "error"]
