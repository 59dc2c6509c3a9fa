"""The child processes of this command: `main` starts one before anything else is loaded."""

from __future__ import annotations

from node.conversion.pool import Converters

CONVERTERS = Converters()
