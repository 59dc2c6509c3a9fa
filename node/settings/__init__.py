"""The configuration: its model, its sources, and the commented example."""

import os
from pathlib import Path
from typing import Literal

ENVIRONMENT_PREFIX = "VOXELNODE_"

DEFAULT_FILE = Path("voxelnode.toml")
"""Read from the working directory if neither ``--config`` nor ``VOXELNODE_CONFIG`` names another file."""


VolumeFormat = Literal["nifti", "nifti-pair", "analyze", "mhd", "nrrd", "npz"]

MEMORY_BYTES, DEADLINE_SECONDS = 8_000_000_000, 1800
"""Limits of a conversion; here, because a command without a configuration needs no pydantic."""


def is_configured() -> bool:
    """Return whether a file or a variable may set something, apart from ``--config``."""
    return DEFAULT_FILE.is_file() or any(name.upper().startswith(ENVIRONMENT_PREFIX) for name in os.environ)
