"""Conversions that take as long as a test wants."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from node.conversion import pool

VARIABLE = "TESTS_HELD_CONVERSION"
"""Variable of a node whose next conversion ends only when a file is removed; its value is the path of that file.

The file is renamed (see `held`) by the conversion that it holds; others go on.
"""


def held(gate: Path) -> Path:
    """The name that the file has while a conversion waits for its removal."""
    return gate.with_name(f"{gate.name}.held")


def hold() -> None:
    """Change this process, if the variable says so."""
    path = os.environ.get(VARIABLE)
    if path is None:
        return
    gate, real = Path(path), pool.Converters.run

    def run(self: pool.Converters, job: Any, limits: Any, cancelled: threading.Event) -> Any:
        converted = real(self, job, limits, cancelled)
        try:
            gate.rename(held(gate))
        except FileNotFoundError:
            return converted
        while held(gate).exists():  # also of a claim that is revoked meanwhile: its child has ended
            time.sleep(0.01)
        return converted

    pool.Converters.run = run  # type: ignore[method-assign]
