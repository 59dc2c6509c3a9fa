"""Names of planes and projections, and windows, which commands and requests take; here, because these load no NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PlaneName = Literal["axial", "coronal", "sagittal"]
ProjectionName = Literal["mip", "minip"]


@dataclass(frozen=True, slots=True)
class Window:
    """Centre and width of a window in rescaled units, and its VOI LUT Function (PS3.3 C.11.2.1.2)."""

    centre: float
    width: float
    function: str = "LINEAR"
