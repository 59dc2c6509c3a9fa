"""The child processes of this command: `main` starts one before anything else is loaded."""

from __future__ import annotations

from node.converter import Converters

CONVERTERS = Converters()
