"""A window that a viewer requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """Centre and width of a window in rescaled units, and its VOI LUT Function (PS3.3 C.11.2.1.2)."""

    centre: float
    width: float
    function: str = "LINEAR"
