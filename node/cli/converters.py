"""The child processes of ``voxelnode convert``; `main` starts the first before it loads anything else."""

from __future__ import annotations

from node.conversion.pool import Converters

CONVERTERS = Converters()
